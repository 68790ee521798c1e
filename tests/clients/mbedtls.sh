#!/usr/bin/env bash
# A device with mbedTLS: see mbedtls.c.  It sends each message by itself, so a connection that closes early resets.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
grep -q 'MBEDTLS_VERSION_MAJOR *2$' <<<"$(echo '#include <mbedtls/version.h>' | cc -E -dM -x c - 2>/dev/null)" ||
  { echo "mbedtls: SKIPPED, the headers of mbedTLS 2.28 are not installed (Debian 12: libmbedtls-dev)" >&2; exit 0; }
cc -Wall -o "$dir/mbedtls" "$here/mbedtls.c" -lmbedtls -lmbedx509 -lmbedcrypto
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
authority=$(value token_endpoint | sed -E 's#https://([^/]+)/.*#\1#')

fail() { echo "mbedtls.sh: $*" >&2; exit 1; }
connections() { # DEVICE COUNT [CHAIN KEY]: one line for each connection
  local id chain=${3:-$(value device "$1" chain)} key=${4:-$(value device "$1" key)}
  id=$("$python" -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$(value device "$1" client_id)")
  timeout 120 "$dir/mbedtls" "$(value ca_file)" "${authority%:*}" "${authority##*:}" "$id" "$chain" "$key" "$2"
}

answer=$(connections 6 2)
[[ $answer == *"full: 200"*access_token*$'\n'*"resumed: 200"*access_token* ]] || fail "$answer"
# openssl.sh revoked the second device.
answer=$(connections 1 1)
[[ $answer == *"alert 44"* ]] || fail "a revoked device: $answer"
# Each refused handshake shows its alert, never a reset.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/stranger.key" -out "$dir/stranger.pem" \
  -subj /CN=stranger -days 2 2>/dev/null
answer=$(connections 6 30 "$dir/stranger.pem" "$dir/stranger.key")
[ "$(grep -c 'alert 48$' <<<"$answer")" = 30 ] || fail "an unknown authority, 30 times: $answer"
answer=$(connections 6 30 - -)
[ "$(grep -c 'alert 40$' <<<"$answer")" = 30 ] || fail "no certificate, 30 times: $answer"
echo "mbedtls: tokens over TLS 1.2, full and resumed; 30 of 30 refused handshakes show their alert"
