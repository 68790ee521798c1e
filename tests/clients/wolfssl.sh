#!/usr/bin/env bash
# A device with wolfSSL: see wolfssl.c.  As built by default it cannot read the session tickets of TLS 1.3.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
echo '#include <wolfssl/options.h>' | cc -E -x c - >/dev/null 2>&1 ||
  { echo "wolfssl: SKIPPED, its headers are not installed (Debian: libwolfssl-dev)" >&2; exit 0; }
cc -Wall -o "$dir/wolfssl" "$here/wolfssl.c" -lwolfssl
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
authority=$(value token_endpoint | sed -E 's#https://([^/]+)/.*#\1#')

fail() { echo "wolfssl.sh: $*" >&2; exit 1; }
connections() { # DEVICE VERSION COUNT [CHAIN KEY]: one line for each connection
  local id chain=${4:-$(value device "$1" chain)} key=${5:-$(value device "$1" key)}
  id=$("$python" -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$(value device "$1" client_id)")
  timeout 120 "$dir/wolfssl" "$(value ca_file)" "${authority%:*}" "${authority##*:}" "$id" "$chain" "$key" "$2" "$3"
}

answer=$(connections 4 1.2 2)
[[ $answer == *"full: 200"*access_token*$'\n'*"resumed: 200"*access_token* ]] || fail "TLS 1.2: $answer"
# The first connection may fail on its ticket.  The gateway sends no other, and further connections get tokens.
answer=$(connections 4 1.3 4)
echo "$answer" | cut -c -70 | sed 's/^/wolfssl: /'
[ "$(tail -n 2 <<<"$answer" | grep -c ' 200 .*access_token')" = 2 ] || fail "TLS 1.3: $answer"
# openssl.sh revoked the second device.
for version in 1.2 1.3; do
  answer=$(connections 1 "$version" 1)
  [[ $answer == *"alert 44 "* ]] || fail "TLS $version, a revoked device: $answer"
done
answer=$(connections 4 1.2 1 - -)
[[ $answer == *"alert 40 "* ]] || fail "TLS 1.2 without a certificate: $answer"
answer=$(connections 4 1.3 1 - -)
[[ $answer == *"alert 116 "* ]] || fail "TLS 1.3 without a certificate: $answer"
echo "wolfssl: tokens over TLS 1.2, full and resumed, and over TLS 1.3 with the default settings; alerts name the reason"
