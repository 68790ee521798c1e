#!/usr/bin/env bash
# A device with Go: see device.go.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || { echo "go: SKIPPED, Go is not installed (Debian: golang-go)" >&2; exit 0; }
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
device() { # NUMBER EXPECTATION
  "$dir/device" "$(value ca_file)" "$(value token_endpoint)" "$(value device "$1" client_id)" \
    "$(value device "$1" chain)" "$(value device "$1" key)" "$2"
}
GOFLAGS=-mod=mod GOCACHE=${GOCACHE:-$dir/go} go build -o "$dir/device" "$here/device.go"
device 0 token
# openssl.sh revoked the second device.
device 1 revoked
echo "go: tokens over TLS 1.3, full and resumed; the alert names the revocation"
