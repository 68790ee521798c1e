"""A resource server that accepts certificate-bound tokens (RFC 9068, RFC 8705), with PyJWT.

Usage: resource_server.py ISSUER AUDIENCE SERVER_PEM SERVER_KEY DEVICE_CA PORT
       resource_server.py ISSUER AUDIENCE --behind-proxy PORT

Behind a proxy that terminates TLS, such as nginx, it listens on loopback and reads the certificate from `X-Client-Certificate`, which the
proxy always overwrites.
"""

import base64
import hashlib
import json
import re
import ssl
import sys
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

ALGORITHMS = ["ES256"]  # the algorithms of the issuer's keys, never those that a token names


class Refused(Exception):
    pass


class Verifier:
    def __init__(self, issuer, audience):
        self.issuer, self.audience = issuer, audience
        with urllib.request.urlopen(issuer + "/.well-known/oauth-authorization-server", timeout=10) as answer:
            metadata = json.load(answer)
        if metadata["issuer"] != issuer:
            raise SystemExit(f"the metadata is of {metadata['issuer']}, not of {issuer}")
        with urllib.request.urlopen(metadata["jwks_uri"], timeout=10) as answer:
            max_age = re.search(r"max-age=([0-9]+)", answer.headers.get("Cache-Control", ""))
        # Fetches the key set again when it is as old as the issuer allows, and for an unknown key ID.
        self.keys = jwt.PyJWKClient(metadata["jwks_uri"], lifespan=int(max_age[1]) if max_age else 300)

    def check(self, authorization, certificate):
        """Returns the claims of a token that is valid on a connection with `certificate` (DER)."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused("no bearer token")
        try:
            if jwt.get_unverified_header(token).get("typ", "").lower() != "at+jwt":
                raise Refused("not an access token")
            key = self.keys.get_signing_key_from_jwt(token)
            claims = jwt.decode(
                token, key.key, algorithms=ALGORITHMS, issuer=self.issuer, audience=self.audience, leeway=30,
                options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"]})
        except jwt.PyJWTError as error:
            raise Refused(str(error)) from error
        bound_to = claims.get("cnf", {}).get("x5t#S256")
        presented = certificate and base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode()
        if not bound_to or bound_to != presented:
            raise Refused("the token is bound to another certificate")
        return claims


def handler(verifier, behind_proxy):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                if behind_proxy:
                    pem = urllib.parse.unquote(self.headers.get("X-Client-Certificate", ""))
                    certificate = ssl.PEM_cert_to_DER_cert(pem) if pem else None
                else:
                    certificate = self.connection.getpeercert(binary_form=True)
                claims = verifier.check(self.headers.get("Authorization"), certificate)
                self.answer(200, {"subject": claims["sub"], "scope": claims.get("scope", "")})
            except (Refused, ValueError) as error:
                self.answer(401, {"error": "invalid_token", "error_description": str(error)})

        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Bearer error="invalid_token"')
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler


def main():
    verifier = Verifier(sys.argv[1], sys.argv[2])
    if sys.argv[3] == "--behind-proxy":
        server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[4])), handler(verifier, True))
    else:
        server_pem, server_key, device_ca, port = sys.argv[3:7]
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler(verifier, False))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=device_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_cert_chain(server_pem, server_key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


main()
