"""Runs every query of the dashboards and rules in a real Prometheus that scrapes a running quickstart.

Usage: prometheus.py INDEX, with the quickstart.json of the quickstart.
Every query of a dashboard must have a result; one of a rule must be accepted.  promtool must accept the metrics.
"""

import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "observability"
# Longest wait for results; two scrapes are needed for a rate.
LIMIT = 120


def ask(base, path, **parameters):
    url = f"{base}{path}?{urllib.parse.urlencode(parameters)}"
    try:
        return json.load(urllib.request.urlopen(url, timeout=30))
    except urllib.error.HTTPError as error:
        return json.load(error)


def start(folder, target):
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "anchorgate", "static_configs": [{"targets": [target]}]}],
        "rule_files": [str(HERE / "rules.yaml")],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=open(folder / "log", "wb"))
    return process, f"http://127.0.0.1:{port}"


def dashboard_queries():
    for file in sorted((HERE / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield target["expr"].replace("$__rate_interval", "1m")


def result(base, query):
    answer = ask(base, "/api/v1/query", query=query)
    assert answer["status"] == "success", f"{query}: {answer}"
    return answer["data"]["result"]


def check_text(target):
    """Checks both formats of the metrics: promtool reads the classic one."""
    url = f"http://{target}/metrics"
    open_metrics = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    answer = urllib.request.urlopen(open_metrics, timeout=30)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text"), answer.headers
    assert answer.read().endswith(b"# EOF\n")
    text = urllib.request.urlopen(url, timeout=30).read()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert checked.returncode == 0, (checked.stdout + checked.stderr).decode()
    return text.count(b"# TYPE ")


def main():
    if not shutil.which("prometheus"):
        print("prometheus: SKIPPED, it is not installed (package prometheus)", file=sys.stderr)
        return
    target = json.loads(pathlib.Path(sys.argv[1]).read_text())["admin_url"].removeprefix("http://")
    folder = pathlib.Path(tempfile.mkdtemp())
    process, base = start(folder, target)
    try:
        deadline = time.monotonic() + LIMIT
        empty = list(dashboard_queries())
        count = len(empty)
        while empty:
            try:
                empty = [query for query in empty if not result(base, query)]
            except urllib.error.URLError:
                # It is starting.
                assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline or not empty, f"no result: {empty}"
            time.sleep(0.5)
        families = check_text(target)
        rules = [rule for group in yaml.safe_load((HERE / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
        for rule in rules:
            result(base, rule["expr"])
        print(f"prometheus: {count} queries of dashboards have results, {len(rules)} of rules are accepted; "
              f"promtool accepts {families} metrics")
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


main()
