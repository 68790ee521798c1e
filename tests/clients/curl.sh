#!/usr/bin/env bash
# A device with curl: HTTP/1.1 and HTTP/2, TLS 1.3 and 1.2, and errors.
set -euo pipefail
python=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
value() { "$python" "$here/index.py" "$dir/quickstart.json" "$@"; }
ca=$(value ca_file) endpoint=$(value token_endpoint)
chain=$(value device 0 chain) key=$(value device 0 key) id=$(value device 0 client_id)

fail() { echo "curl.sh: $*" >&2; exit 1; }
token() { # prints "STATUS BODY"
  curl --silent --show-error --cacert "$ca" --cert "$chain" --key "$key" --write-out '\n%{http_code} %{http_version}' \
    --data grant_type=client_credentials --data-urlencode "client_id=$id" "$@" "$endpoint"
}

for options in "--http1.1" "--http2" "--tlsv1.2 --tls-max 1.2" "--tlsv1.3"; do
  # shellcheck disable=SC2086
  answer=$(token $options)
  [[ $answer == *'"access_token"'*$'\n'200* ]] || fail "$options: $answer"
done
[[ $(token --http2) == *$'\n'"200 2" ]] || fail "HTTP/2 was not negotiated"

answer=$(token --data scope=no:such)
[[ $answer == *invalid_scope*$'\n'400* ]] || fail "unknown scope: $answer"
answer=$(curl --silent --cacert "$ca" --cert "$chain" --key "$key" --write-out '\n%{http_code}' "$endpoint")
[[ $answer == *405 ]] || fail "GET: $answer"
if curl --silent --cacert "$ca" --data grant_type=client_credentials "$endpoint" 2>/dev/null; then
  fail "a request without a certificate succeeded"
fi
keys=$(curl --silent --fail --cacert "$ca" "$(value jwks_url)")
[[ $keys == *'"kty"'* && $keys != *'"d":'* ]] || fail "JWKS: $keys"
echo "curl: tokens over HTTP/1.1, HTTP/2, TLS 1.2 and 1.3; errors by RFC 6749"
