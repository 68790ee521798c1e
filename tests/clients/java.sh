#!/usr/bin/env bash
# A device with Java: see Device.java.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
command -v javac >/dev/null || { echo "java: SKIPPED, no JDK is installed (Debian: default-jdk-headless)" >&2; exit 0; }
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
device() { # NUMBER EXPECTED
  openssl pkcs12 -export -in "$(value device "$1" chain)" -inkey "$(value device "$1" key)" \
    -passout pass:device -out "$dir/device$1.p12"
  java "$here/Device.java" "$(value ca_file)" "$(value token_endpoint)" "$(value device "$1" client_id)" \
    "$dir/device$1.p12" "$2"
}
device 0 access_token
# openssl.sh revoked the second device.
device 1 certificate_revoked
echo "java: tokens over TLS 1.2 and 1.3; the alert names the revocation"
