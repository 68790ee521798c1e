"""Renders the Helm chart and the Kustomize bases with the real programs and checks the objects.

Usage: manifests.py PROGRAM HELM KUBECTL

- The objects are valid under the schemas of Kubernetes; those of custom resources have their required fields.
- Every pod is restricted: no root, no privileges, read-only root file system, no service account token.
- PROGRAM accepts the configuration of every form.
- A change of the configuration rolls the pods; wrong values are refused.
"""

import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

PROGRAM, HELM, KUBECTL = sys.argv[1:4]
DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "anchorgate"
KUBERNETES = "1.33"
CUSTOM = {
    "Certificate": ["secretName", "dnsNames", "issuerRef"],
    "PrometheusRule": ["groups"],
    "ServiceMonitor": ["selector", "endpoints"],
    "TLSRoute": ["parentRefs", "hostnames", "rules"],
}
EXPECTED = {
    "gateway": {
        "Certificate", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim",
        "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor", "TLSRoute",
    },
    "sidecar": {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"},
    "hub": {
        "ConfigMap", "CronJob", "Deployment", "PersistentVolumeClaim", "PodDisruptionBudget", "Service", "ServiceAccount",
    },
}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True)


def objects(*command):
    done = run(*command)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def chart(mode, *options):
    return objects(HELM, "template", "edge", str(CHART), "-f", str(CHART / "ci" / f"{mode}.yaml"), *options)


def of_kind(all_objects, kind):
    return [one for one in all_objects if one["kind"] == kind]


def pods(one):
    if one["kind"] == "Deployment":
        yield one["spec"]["template"]["spec"]
    if one["kind"] == "CronJob":
        yield one["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def check_object(one):
    if one["kind"] in CUSTOM:
        missing = [key for key in CUSTOM[one["kind"]] if not one["spec"].get(key)]
        assert not missing, f"{one['kind']}: {missing}"
    else:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    for pod in pods(one):
        assert pod["automountServiceAccountToken"] is False, one["kind"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod.get("initContainers", []) + pod["containers"]:
            if container["name"] == "application":
                continue
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, container["name"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
            volumes = {volume["name"] for volume in pod["volumes"]}
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= volumes, f"not a volume: {mounts - volumes}"


def check_configuration(text, folder):
    """PROGRAM accepts the configuration, with the paths of the container below `folder`."""
    etc, var = folder / "etc", folder / "var"
    tls = etc / "anchorgate" / "tls"
    tls.mkdir(parents=True, exist_ok=True)
    (var / "lib").mkdir(parents=True, exist_ok=True)
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    made = run(*key, "-subj", "/CN=x", "-addext", "subjectAltName=DNS:mtls.example,DNS:as.example",
               "-keyout", str(tls / "tls.key"), "-out", str(tls / "tls.crt"))
    assert made.returncode == 0, made.stderr
    for name, content in [
        ("tickets/current", "x" * 32),
        ("signing/key.pem", (tls / "tls.key").read_text()),
        ("database/url", "postgres://anchorgate@database.example/anchorgate"),
    ]:
        file = etc / "anchorgate" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        # As the chart mounts secrets.
        file.chmod(0o440)
    file = folder / "config.toml"
    file.write_text(text.replace('"/etc/', f'"{etc}/').replace('"/var/', f'"{var}/'))
    done = run(PROGRAM, "check-config", "--config", str(file))
    assert done.returncode == 0, done.stderr + done.stdout + text


def configuration(all_objects):
    texts = [one["data"]["config.toml"] for one in of_kind(all_objects, "ConfigMap") if "config.toml" in one.get("data", {})]
    assert len(texts) == 1, texts
    return texts[0]


def checksum(all_objects):
    template = of_kind(all_objects, "Deployment")[0]["spec"]["template"]
    return template["metadata"]["annotations"]["checksum/config"]


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    count = 0
    for mode, expected in EXPECTED.items():
        linted = run(HELM, "lint", "--strict", str(CHART), "-f", str(CHART / "ci" / f"{mode}.yaml"))
        assert linted.returncode == 0, linted.stdout + linted.stderr
        rendered = chart(mode)
        kinds = {one["kind"] for one in rendered}
        assert kinds == expected, f"{mode}: {kinds ^ expected}"
        for one in rendered:
            check_object(one)
            count += 1
        check_configuration(configuration(rendered), folder / mode)
    gateway = chart("gateway")
    changed = chart("gateway", "--set", "oauth.audience=https://other.example")
    assert checksum(gateway) != checksum(changed), "a change of the configuration does not roll the pods"
    assert "replicas" not in of_kind(gateway, "Deployment")[0]["spec"], "replicas belong to the autoscaler"
    guard = of_kind(chart("sidecar"), "Deployment")[0]["spec"]["template"]["spec"]["initContainers"][0]
    assert guard["restartPolicy"] == "Always" and "startupProbe" in guard
    for wrong in ["mode=proxy", "replicas=0", "service.ports.token=70000", "image.digest=latest", "spelt=1", "oauth.issuer="]:
        done = run(HELM, "template", "edge", str(CHART), "-f", str(CHART / "ci" / "gateway.yaml"), "--set", wrong)
        assert done.returncode != 0, f"{wrong} is accepted"

    for base in ["base", "hub", "sidecar"]:
        rendered = objects(KUBECTL, "kustomize", str(DEPLOY / "kustomize" / base))
        for one in rendered:
            check_object(one)
            count += 1
        check_configuration(configuration(rendered), folder / f"kustomize-{base}")
    print(f"manifests: {count} objects are valid")


main()
