#!/usr/bin/env bash
# A device with openssl: a session is resumed after its certificate was revoked, and the request on it
# must be rejected.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
ca=$(value ca_file)
# The second device of the first domain; no later script uses it.
chain=$(value device 1 chain) key=$(value device 1 key) cert=$(value device 1 cert) id=$(value device 1 client_id)
host=$(value token_endpoint | sed -E 's#https://([^/]+)/.*#\1#')

fail() { echo "openssl.sh: $*" >&2; exit 1; }
encoded=$("$python" -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$id")
body="grant_type=client_credentials&client_id=$encoded"
request() { # OPTION...: one request over s_client; prints what came back
  { printf 'POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %s\r\n\r\n%s' \
      "${#body}" "$body"; sleep 1; } |
    timeout 20 openssl s_client -connect "$host" -servername localhost -CAfile "$ca" -verify_return_error \
      -cert "$cert" -cert_chain "$chain" -key "$key" -ign_eof "$@" 2>&1 || true
}

for version in -tls1_3 -tls1_2; do
  answer=$(request $version -sess_out "$dir/session$version")
  [[ $answer == *"HTTP/1.1 200"* && $answer == *"New, TLS"* ]] || fail "$version, first: $answer"
  answer=$(request $version -sess_in "$dir/session$version")
  [[ $answer == *"HTTP/1.1 200"* && $answer == *"Reused, TLS"* ]] || fail "$version, resumed: $answer"
  request $version -sess_out "$dir/session$version" >/dev/null
done

"$python" "$here/revoke.py" "$dir/quickstart.json" "$cert"
deadline=$((SECONDS + 30))
until [[ $(request -tls1_3 -sess_in "$dir/session-tls1_3") == *"HTTP/1.1 401"* ]]; do
  [ "$SECONDS" -lt "$deadline" ] || fail "still served 30 s after the revocation"
done
for version in -tls1_3 -tls1_2; do
  answer=$(request $version -sess_in "$dir/session$version")
  [[ $answer == *"Reused, TLS"* ]] || fail "$version: not resumed, so nothing is proved: $answer"
  [[ $answer == *"HTTP/1.1 401"* && $answer == *invalid_client* ]] || fail "$version, revoked: $answer"
  answer=$(request $version)
  [[ $answer == *"certificate revoked"* ]] || fail "$version, new handshake: $answer"
done
echo "openssl: a revoked device is refused on resumed sessions and in new handshakes, TLS 1.2 and 1.3"
