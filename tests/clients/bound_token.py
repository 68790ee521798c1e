"""Validates the quickstart's tokens like a resource server, with PyJWT.  bound_token.py QUICKSTART.JSON"""
import base64
import hashlib
import json
import sys

import jwt
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization

index = json.load(open(sys.argv[1]))
ca = index["ca_file"]
metadata = requests.get(index["metadata_url"], verify=ca, timeout=10).json()
assert index["metadata_url"].startswith(metadata["issuer"]), metadata
assert metadata["mtls_endpoint_aliases"]["token_endpoint"] == index["token_endpoint"], metadata
assert metadata["tls_client_certificate_bound_access_tokens"] is True, metadata
jwks = requests.get(metadata["jwks_uri"], verify=ca, timeout=10).json()
keys = {key["kid"]: jwt.PyJWK(key) for key in jwks["keys"]}

checked, seen = 0, set()
for number, device in enumerate(index["devices"]):
    if number == 1:
        continue  # revoked by openssl.sh
    answer = requests.post(
        index["token_endpoint"],
        data={"grant_type": "client_credentials", "client_id": device["client_id"], "scope": "telemetry:write"},
        cert=(device["chain"], device["key"]), verify=ca, timeout=10)
    assert answer.status_code == 200, (device, answer.status_code, answer.text)
    assert answer.headers["Cache-Control"] == "no-store", answer.headers
    body = answer.json()
    assert body["token_type"].lower() == "bearer" and "refresh_token" not in body, body
    header = jwt.get_unverified_header(body["access_token"])
    assert header["typ"] == "at+jwt" and header["alg"] == "ES256", header
    claims = jwt.decode(
        body["access_token"], keys[header["kid"]].key, algorithms=["ES256"], issuer=metadata["issuer"],
        audience="https://api.quickstart.example",
        options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"]})
    cert = x509.load_pem_x509_certificate(open(device["cert"], "rb").read())
    digest = hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).digest()
    thumbprint = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert claims["cnf"] == {"x5t#S256": thumbprint}, claims
    assert claims["client_id"] == device["client_id"] and claims["scope"] == "telemetry:write", claims
    assert claims["exp"] - claims["iat"] == body["expires_in"], (claims, body)
    assert claims["jti"] not in seen
    seen.add(claims["jti"])
    checked += 1
    # A device must not get a token for a device of another configuration.
    other = index["devices"][(number + 2) % len(index["devices"])]
    wrong = requests.post(
        index["token_endpoint"], data={"grant_type": "client_credentials", "client_id": other["client_id"]},
        cert=(device["chain"], device["key"]), verify=ca, timeout=10)
    assert wrong.status_code in (400, 401) and "access_token" not in wrong.text, wrong.text
print(f"python: {checked} tokens validated against the published keys, each bound to its certificate")
