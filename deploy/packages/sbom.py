"""Writes the software bill of materials of the program (CycloneDX 1.5, JSON): every crate that the build links.

The document has no time and no random number, so that two runs on one commit are equal.
"""

import hashlib
import json
import subprocess
import tomllib

command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform"]
host = next(line.split()[1] for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if line.startswith("host"))
metadata = json.loads(subprocess.check_output([*command, host]))
checksums = {
    (package["name"], package["version"]): package.get("checksum")
    for package in tomllib.load(open("Cargo.lock", "rb"))["package"]
}
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
root = metadata["resolve"]["root"]


def linked(node):
    """Dependencies that are not for tests only."""
    return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]


reached, waiting = {root}, [root]
while waiting:
    for dependency in linked(nodes[waiting.pop()]):
        if dependency not in reached:
            reached.add(dependency)
            waiting.append(dependency)


def reference(identity):
    package = packages[identity]
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(identity):
    package = packages[identity]
    one = {
        "type": "application" if identity == root else "library",
        "bom-ref": reference(identity),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(identity),
    }
    if package.get("license"):
        one["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        one["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return one


others = sorted((identity for identity in reached if identity != root), key=reference)
serial = hashlib.sha256("".join(map(reference, [root, *others])).encode()).hexdigest()
print(json.dumps({
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "serialNumber": f"urn:uuid:{serial[:8]}-{serial[8:12]}-5{serial[13:16]}-8{serial[17:20]}-{serial[20:32]}",
    "version": 1,
    "metadata": {"component": component(root)},
    "components": [component(identity) for identity in others],
    "dependencies": [
        {"ref": reference(identity), "dependsOn": sorted({reference(d) for d in linked(nodes[identity]) if d in reached})}
        for identity in [root, *others]
    ],
}, indent=1))
