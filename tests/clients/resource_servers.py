"""Runs the resource servers of deploy/examples against a quickstart's tokens.

Usage: resource_servers.py QUICKSTART.JSON NODE_PREFIX
       resource_servers.py QUICKSTART.JSON NODE_PREFIX PROGRAM

Each server accepts a token on a connection with the certificate that it is bound to, and nothing else.  With PROGRAM, the quickstart must
have ended: its gateway is started again with signing keys that rotate every 7 seconds, and every server accepts every token through five
rotations.
"""
import base64
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

import requests

index = json.load(open(sys.argv[1]))
node_prefix = sys.argv[2]
pki = pathlib.Path(index["ca_file"]).parent
ca = index["ca_file"]
examples = pathlib.Path(__file__).parents[2] / "deploy" / "examples"
work = pathlib.Path(tempfile.mkdtemp())
issuer = index["metadata_url"].split("/.well-known/")[0]
AUDIENCE = "https://api.quickstart.example"
environment = {**os.environ, "SSL_CERT_FILE": ca, "NODE_EXTRA_CA_CERTS": ca}
running = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(*command, cwd=None):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd)
    running.append(process)
    line = process.stdout.readline()
    assert line.strip() == "ready", f"{command[:2]}: {line!r}"


def device_authorities():
    bundle = work / "devices.pem"
    bundle.write_text("".join(file.read_text() for file in sorted(pki.glob("*-root.pem")) + sorted(pki.glob("*-issuer.pem"))))
    return str(bundle)


def python(audience):
    port = free_port()
    start(sys.executable, str(examples / "resource_server.py"), issuer, audience, str(pki / "server.pem"),
          str(pki / "server.key"), device_authorities(), str(port))
    return port


def node(audience):
    # Node looks for packages beside the script.
    script = pathlib.Path(node_prefix) / "resource-server.mjs"
    shutil.copy(examples / "resource-server.mjs", script)
    port = free_port()
    start("node", str(script), issuer, audience, str(pki / "server.pem"), str(pki / "server.key"), str(port))
    return port


def java(audience):
    store = work / "server.p12"
    subprocess.run(["openssl", "pkcs12", "-export", "-in", str(pki / "server.pem"), "-inkey", str(pki / "server.key"),
                    "-passout", "pass:server", "-out", str(store)], check=True)
    port = free_port()
    start("java", str(examples / "ResourceServer.java"), issuer, audience, str(store), "server", str(port), ca)
    return port


def nginx(audience):
    verifier, port, api = free_port(), free_port(), free_port()
    start(sys.executable, str(examples / "resource_server.py"), issuer, audience, "--behind-proxy", str(verifier))
    folder = work / f"nginx{port}"
    folder.mkdir()
    text = (examples / "nginx.conf").read_text()
    files = [("SERVER_PEM", pki / "server.pem"), ("SERVER_KEY", pki / "server.key")]
    for name, value in [("PORT", port), ("VERIFIER", verifier), ("API", api), *files]:
        text = text.replace(f"@{name}@", str(value))
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", "nginx.conf", "-g", "daemon off;"],
                               stderr=subprocess.DEVNULL)
    running.append(process)
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return port
        assert process.poll() is None, "nginx ended"
        time.sleep(0.05)
    sys.exit("nginx does not listen")


devices = [index["devices"][0], index["devices"][2]]
certificates = [(device["chain"], device["key"]) for device in devices]


def try_token(n):
    answer = requests.post(
        index["token_endpoint"], data={"grant_type": "client_credentials", "client_id": devices[n]["client_id"]},
        cert=certificates[n], verify=ca, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


def token(n):
    """Retries while a gateway starts."""
    for _ in range(100):
        try:
            return try_token(n)
        except (requests.ConnectionError, AssertionError):
            time.sleep(0.1)
    return try_token(n)


def status(port, bearer=None, certificate=None, headers=None):
    headers = dict(headers or {})
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    url = f"https://localhost:{port}/"
    answer = requests.get(url, headers=headers, cert=certificate, verify=ca, timeout=10)
    return answer.status_code, answer.text


def check(name, server):
    good = token(0)
    head, body, signature = good.split(".")
    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    port = server(AUDIENCE)
    spoofed = {"X-Client-Certificate": urllib.parse.quote(open(devices[0]["cert"]).read())}
    for expected, what, arguments in [
        (200, "its own token", (good, certificates[0])),
        (200, "the other device's own token", (token(1), certificates[1])),
        (401, "a token of another device", (good, certificates[1])),
        (401, "a token without a certificate", (good, None)),
        (401, "no token", (None, certificates[0])),
        (401, "another signature", (f"{head}.{body}.{flipped}", certificates[0])),
        (401, "other claims", (f"{head}.{head}.{signature}", certificates[0])),
        (401, "the certificate in a header", (good, certificates[1], spoofed)),
        (200, "its own token again", (good, certificates[0])),
    ]:
        got, text = status(port, *arguments)
        assert got == expected, f"{name}: {what}: {got} {text}, not {expected}"
    got, _ = status(server("https://other.example"), good, certificates[0])
    assert got == 401, f"{name}: a token for another audience: {got}"
    print(f"resource servers: {name} accepts bound tokens only")


def rotating_gateway(program):
    text = pathlib.Path(index["ca_file"]).parents[1].joinpath("anchorgate.toml").read_text()
    rotation = 'jwks_max_age = "1s"\nrotation = { every = "7s", publish_ahead = "6s", retire_after = "60s" }'
    text = text.replace("[oauth]\n", f"[oauth]\n{rotation}\n").replace('token_lifetime = "5m"', 'token_lifetime = "60s"')
    file = pathlib.Path(index["ca_file"]).parents[1] / "rotating.toml"
    file.write_text(text)
    process = subprocess.Popen([program, "run", "--config", str(file)], stderr=open(work / "gateway.log", "wb"))
    running.append(process)


def key_id(bearer):
    head = bearer.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


def rotate(program):
    rotating_gateway(program)
    token(0)
    names = [name for name in ["python", "node", "java"] if name != "java" or shutil.which("java")]
    ports = {name: {"python": python, "node": node, "java": java}[name](AUDIENCE) for name in names}
    seen, count, end = set(), 0, time.monotonic() + 120
    while len(seen) < 6:
        assert time.monotonic() < end, f"only {len(seen)} keys signed"
        bearer = try_token(0)
        seen.add(key_id(bearer))
        for name, port in ports.items():
            got, text = status(port, bearer, certificates[0])
            assert got == 200, f"{name}: {got} {text} after {len(seen) - 1} rotations"
            count += 1
    print(f"resource servers: {', '.join(names)} accepted {count} tokens through {len(seen) - 1} rotations")


try:
    if len(sys.argv) > 3:
        rotate(sys.argv[3])
        sys.exit(0)
    check("python", python)
    check("node", node)
    for name, server in [("java", java), ("nginx", nginx)]:
        if shutil.which(name):
            check(name, server)
        else:
            print(f"resource servers: {name}: SKIPPED, it is not installed", file=sys.stderr)
finally:
    for process in running:
        process.terminate()
    for process in running:
        process.wait(60)
