"""Runs the resource servers of deploy/examples against a quickstart's tokens: resource_servers.py QUICKSTART.JSON NODE_PREFIX

Each accepts a token on a connection with the certificate that it is bound to, and nothing else.
"""
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
issuer = requests.get(index["metadata_url"], verify=ca, timeout=10).json()["issuer"]
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


def token(n):
    answer = requests.post(
        index["token_endpoint"], data={"grant_type": "client_credentials", "client_id": devices[n]["client_id"]},
        cert=certificates[n], verify=ca, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


def status(port, bearer=None, certificate=None, headers=None):
    headers = dict(headers or {})
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    url = f"https://localhost:{port}/"
    return requests.get(url, headers=headers, cert=certificate, verify=ca, timeout=10).status_code


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
        got = status(port, *arguments)
        assert got == expected, f"{name}: {what}: {got}, not {expected}"
    got = status(server("https://other.example"), good, certificates[0])
    assert got == 401, f"{name}: a token for another audience: {got}"
    print(f"resource servers: {name} accepts bound tokens only")


try:
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
