"""Tests applications with assertions of MSAL and PyJWT.  application.py PROGRAM QUICKSTART_DIR

The quickstart must have ended.  The gateway is started twice from its configuration: first to create an
application configuration in its directory, then with clients that are assigned to it."""
import base64
import contextlib
import datetime
import hashlib
import json
import subprocess
import sys
import time
import uuid

import jwt
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from msal.application import _extract_cert_and_thumbprints
from msal.oauth2cli import Client, JwtAssertionCreator

program, folder = sys.argv[1:]
index = json.load(open(f"{folder}/quickstart.json"))
ca = index["ca_file"]
now = datetime.datetime.now(datetime.timezone.utc)


@contextlib.contextmanager
def gateway(config):
    process = subprocess.Popen([program, "run", "--config", config], stderr=open(f"{folder}.run.log", "ab"))
    try:
        for _ in range(300):
            assert process.poll() is None, open(f"{folder}.run.log").read()
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{index['admin_url']}/livez", timeout=5)
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0


def certificate(name, key, issuer=None, issuer_key=None):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=issuer is not None, key_cert_sign=issuer is None, crl_sign=False,
                          content_commitment=False, key_encipherment=False, data_encipherment=False,
                          key_agreement=False, encipher_only=False, decipher_only=False), critical=True)
    )
    return builder.sign(issuer_key or key, hashes.SHA256())


def pem(thing):
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM).decode()
    return thing.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                               serialization.NoEncryption()).decode()


def der(thing):
    return thing.public_bytes(serialization.Encoding.DER)


def thumbprint(thing):
    return base64.urlsafe_b64encode(hashlib.sha256(der(thing)).digest()).rstrip(b"=").decode()


root_key = ec.generate_private_key(ec.SECP256R1())
root = certificate("Application Root", root_key)
keys = {"rsa": rsa.generate_private_key(65537, 2048), "ec": ec.generate_private_key(ec.SECP384R1())}
leaves = {name: certificate(name, key, root, root_key) for name, key in keys.items()}

with gateway(f"{folder}/anchorgate.toml"):
    made = requests.post(
        f"{index['directory_http_url']}/directory/certificateAuthorities/certificateBasedApplicationConfigurations",
        headers={"authorization": f"Bearer {index['directory_token']}"}, timeout=10,
        json={"displayName": "scripts", "trustedCertificateAuthorities": [
            {"certificate": base64.b64encode(der(root)).decode(), "isRootAuthority": True}]})
    assert made.status_code == 200, made.text
    configuration = made.json()["id"]

text = open(f"{folder}/anchorgate.toml").read()
for name in keys:
    for what, thing in (("pem", leaves[name]), ("key", keys[name])):
        open(f"{folder}/{name}.{what}", "w").write(pem(thing))
    text += f"""
[[client]]
id = "{name}"
application_configuration = "{configuration}"
token_endpoint_auth_method = "private_key_jwt"
tls_client_certificate_bound_access_tokens = false
subject_field = "tls_client_auth_subject_dn"
subjects = ["CN={name}"]
certificates = ["{name}.pem"]
"""
open(f"{folder}/applications.toml", "w").write(text)

with gateway(f"{folder}/applications.toml"):
    metadata = requests.get(index["metadata_url"], verify=ca, timeout=10).json()
    assert "private_key_jwt" in metadata["token_endpoint_auth_methods_supported"], metadata
    mutual = metadata["mtls_endpoint_aliases"]["token_endpoint"]
    assert mutual == index["token_endpoint"] != metadata["token_endpoint"], metadata
    jwks = requests.get(metadata["jwks_uri"], verify=ca, timeout=10).json()
    signers = {key["kid"]: jwt.PyJWK(key) for key in jwks["keys"]}

    def claims(answer, client):
        assert "access_token" in answer, answer
        token = answer["access_token"]
        signer = signers[jwt.get_unverified_header(token)["kid"]]
        found = jwt.decode(token, signer.key, algorithms=["ES256"], issuer=metadata["issuer"],
                           audience="https://api.quickstart.example")
        assert found["client_id"] == found["sub"] == client, found
        return found

    # MSAL's client, with both of its ways to name a certificate by SHA-256.
    session = requests.Session()
    session.verify, session.trust_env = ca, False
    deadline = time.time() + 30
    sha256, _, x5c = _extract_cert_and_thumbprints(leaves["rsa"])
    for headers in ({"x5c": x5c}, {}):
        creator = JwtAssertionCreator(pem(keys["rsa"]), algorithm="PS256", headers=headers, sha256_thumbprint=sha256)
        msal = Client(
            {"token_endpoint": metadata["token_endpoint"]}, "rsa", http_client=session,
            client_assertion=lambda: creator.create_normal_assertion(metadata["token_endpoint"], "rsa"),
            client_assertion_type=Client.CLIENT_ASSERTION_TYPE_JWT)
        answer = msal.obtain_token_for_client(scope=["https://api.quickstart.example/.default"])
        while "error" in answer and time.time() < deadline:  # the directory is being read
            time.sleep(0.2)
            answer = msal.obtain_token_for_client(scope=["https://api.quickstart.example/.default"])
        assert "cnf" not in claims(answer, "rsa"), answer

    # PyJWT's signatures, and replayed assertions.
    def ask(assertion, endpoint=metadata["token_endpoint"], **tls):
        answer = requests.post(endpoint, verify=ca, timeout=10, data={
            "grant_type": "client_credentials", "client_assertion": assertion,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, **tls)
        return answer.status_code, answer.json()

    def assertion(name, algorithm, **changes):
        issued = int(time.time())
        body = {"iss": name, "sub": name, "aud": metadata["issuer"], "iat": issued, "exp": issued + 60,
                "jti": str(uuid.uuid4())} | changes
        return jwt.encode(body, keys[name], algorithm=algorithm, headers={"x5t#S256": thumbprint(leaves[name])})

    for name, algorithm in (("rsa", "RS256"), ("rsa", "PS256"), ("ec", "ES384")):
        once = assertion(name, algorithm)
        status, answer = ask(once)
        assert status == 200 and claims(answer, name), answer
        status, answer = ask(once)
        assert (status, answer["error"]) == (401, "invalid_client"), answer
        assert "used before" in answer["error_description"], answer
    status, answer = ask(assertion("ec", "ES384", aud=["https://other.example", metadata["issuer"]]))
    assert (status, answer["error"]) == (401, "invalid_client"), answer
    status, answer = ask(assertion("ec", "ES384"), endpoint=mutual, cert=(f"{folder}/ec.pem", f"{folder}/ec.key"))
    assert status == 200, answer
    assert claims(answer, "ec")["cnf"] == {"x5t#S256": thumbprint(leaves["ec"])}, answer
print("applications: tokens for MSAL's and PyJWT's assertions, replays refused, bound over mutual TLS")
