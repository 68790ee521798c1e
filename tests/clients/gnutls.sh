#!/usr/bin/env bash
# A device with GnuTLS: full and resumed handshakes over TLS 1.2 and 1.3, and a readable refusal.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
command -v gnutls-cli >/dev/null || { echo "gnutls: SKIPPED, gnutls-cli is not installed (Debian: gnutls-bin)" >&2; exit 0; }
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
ca=$(value ca_file)
authority=$(value token_endpoint | sed -E 's#https://([^/]+)/.*#\1#')
host=${authority%:*} port=${authority##*:}

fail() { echo "gnutls.sh: $*" >&2; exit 1; }
request() { # DEVICE PRIORITY OPTION...: one token request; prints what came back
  local device=$1 priority=$2 id body
  shift 2
  id=$("$python" -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$(value device "$device" client_id)")
  body="grant_type=client_credentials&client_id=$id"
  { printf 'POST /oauth2/token HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %s\r\n\r\n%s' \
      "$authority" "${#body}" "$body"; sleep 5; } |
    timeout 20 gnutls-cli --port "$port" --x509cafile "$ca" --priority "$priority" \
      --x509certfile "$(value device "$device" chain)" --x509keyfile "$(value device "$device" key)" \
      --logfile "$dir/gnutls.log" "$@" "$host" 2>&1 || true
  cat "$dir/gnutls.log" 2>/dev/null || true
}

for version in 1.2 1.3; do
  priority="NORMAL:-VERS-ALL:+VERS-TLS$version"
  # --resume connects a second time with the session of the first connection.  The first program that a device runs
  # resumes: one that does not could be unable to read tickets, and would get none on its next connection.
  answer=$(request 0 "$priority" --resume --waitresumption)
  [[ $answer == *"This is a resumed session"* && $answer == *"HTTP/1.1 200"* ]] || fail "TLS $version, resumed: $answer"
  answer=$(request 0 "$priority")
  [[ $answer == *"HTTP/1.1 200"* && $answer == *access_token* ]] || fail "TLS $version: $answer"
done
# openssl.sh revoked the second device.
answer=$(request 1 NORMAL)
[[ $answer == *"revoked"* ]] || fail "a revoked device: $answer"
echo "gnutls: tokens over TLS 1.2 and 1.3, full and resumed; the alert names the revocation"
