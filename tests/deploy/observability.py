"""Checks deploy/observability, without Prometheus unless promtool is installed.

- Every metric in the rules and dashboards is in the reference table of deploy/README.md.
- Every alert has a `runbook_url`, an entry in the runbook, and a test for firing and for silence.
- The Helm chart has the same rules and dashboards, which are those that dashboards.py writes.
- promtool accepts the rules and their tests.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
HERE = DEPLOY / "observability"
CHART = DEPLOY / "helm" / "anchorgate" / "files"
METRIC = re.compile(r"\banchorgate_[a-z0-9_]+")


def documented():
    """Names of samples, by the reference table."""
    names = set()
    for name, kind in re.findall(r"^\| `(anchorgate_\w+)` \| (\w+) \|", (DEPLOY / "README.md").read_text(), re.M):
        suffixes = ["_bucket", "_count", "_sum"] if kind == "histogram" else [""]
        names |= {name + suffix for suffix in suffixes}
    return names


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
        yield from expressions({"panels": panel.get("panels", [])})


def check_metrics(known, rules, dashboards):
    queries = [rule["expr"] for rule in rules]
    for file in dashboards:
        found = list(expressions(json.loads(file.read_text())))
        assert found, f"{file.name} has no query"
        queries += found
    for query in queries:
        unknown = set(METRIC.findall(query)) - known
        assert not unknown, f"not in deploy/README.md: {unknown} in {query}"
    return len(queries)


def check_alerts(rules):
    runbook = (HERE / "runbook.md").read_text()
    tests = yaml.safe_load((HERE / "rules_test.yaml").read_text())["tests"]
    tested = [case for test in tests for case in test["alert_rule_test"]]
    for rule in rules:
        name = rule["alert"]
        url = rule["annotations"]["runbook_url"]
        assert url.endswith("#" + name.lower()), f"{name}: {url}"
        entry = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", runbook, re.M | re.S)
        assert entry, f"{name} is not in the runbook"
        for part in ["Meaning", "Check", "Action"]:
            assert f"**{part}**: " in entry[1], f"{name}: no {part} in the runbook"
        cases = [bool(case["exp_alerts"]) for case in tested if case["alertname"] == name]
        assert True in cases and False in cases, f"{name} is not tested for firing and for silence"
    headings = set(re.findall(r"^## (\w+)$", runbook, re.M))
    assert headings == {rule["alert"] for rule in rules}, "the runbook has entries of other alerts"


def check_chart(dashboards):
    pairs = [(HERE / "rules.yaml", CHART / "rules.yaml")]
    pairs += [(file, CHART / "dashboards" / file.name) for file in dashboards]
    for ours, chart in pairs:
        assert ours.read_text() == chart.read_text(), f"{chart} differs from {ours}: copy it"
    assert {file.name for file in dashboards} == {file.name for file in (CHART / "dashboards").iterdir()}


def check_generated():
    script = [sys.executable, "dashboards.py", "--check"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr


def main():
    rules = [rule for group in yaml.safe_load((HERE / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
    dashboards = sorted((HERE / "dashboards").glob("*.json"))
    count = check_metrics(documented(), rules, dashboards)
    check_alerts(rules)
    check_chart(dashboards)
    check_generated()
    if shutil.which("promtool"):
        promtool("check", "rules", "rules.yaml")
        promtool("test", "rules", "rules_test.yaml")
    else:
        print("rules: SKIPPED, promtool is not installed (package prometheus)", file=sys.stderr)
    print(f"observability: {len(rules)} alerts and {count} queries are consistent")


main()
