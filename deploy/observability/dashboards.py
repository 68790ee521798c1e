"""Writes the dashboards, for Grafana and for the Helm chart.

Usage: dashboards.py [--check].  With --check, nothing is written, and a dashboard that differs is an error.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
FOLDERS = [HERE / "dashboards", HERE.parent / "helm" / "anchorgate" / "files" / "dashboards"]
RATE = "[$__rate_interval]"


def p(quantile, metric, by=""):
    """A percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{RATE})))"


def rate(metric, by, labels=""):
    return f"sum by ({by}) (rate({metric}{labels}{RATE}))"


# Of each dashboard: the title, and panels of a title, a unit, and queries with their legends.
DASHBOARDS = {
    "service-level": ("Service level", [
        ("Tokens by result", "reqps", [(rate("anchorgate_token_requests_total", "result"), "{{result}}")]),
        ("Issued tokens by configuration and client", "reqps", [
            (f"topk(10, {rate('anchorgate_tokens_issued_total', 'configuration, client')})",
             "{{configuration}} {{client}}")]),
        ("Requests answered within 250 ms, and without an error of the gateway", "percentunit", [
            (f"sum(rate(anchorgate_token_request_duration_seconds_bucket{{le=\"0.25\"}}{RATE}))"
             f" / sum(rate(anchorgate_token_request_duration_seconds_count{RATE}))", "in time"),
            (f"1 - (sum(rate(anchorgate_token_requests_total{{result=\"server_error\"}}{RATE})) or vector(0))"
             f" / sum(rate(anchorgate_token_requests_total{RATE}))", "without error")]),
        ("Time of a request", "s", [
            (p(0.5, "anchorgate_token_request_duration_seconds"), "p50"),
            (p(0.99, "anchorgate_token_request_duration_seconds"), "p99")]),
        ("Time of a handshake, 99th percentile", "s", [
            (p(0.99, "anchorgate_handshake_duration_seconds", "listener, kind"), "{{listener}} {{kind}}")]),
        ("Time of decisions and signatures, 99th percentile", "s", [
            (p(0.99, "anchorgate_judge_duration_seconds", "occasion"), "judge, {{occasion}}"),
            (p(0.99, "anchorgate_sign_duration_seconds", "algorithm"), "sign, {{algorithm}}")]),
    ]),
    "refusals": ("Refusals", [
        ("Refused requests by code", "reqps", [
            (rate("anchorgate_token_requests_total", "refusal", '{refusal!=""}'), "{{refusal}}")]),
        ("Handshakes by result", "cps", [
            (rate("anchorgate_handshakes_total", "listener, result"), "{{listener}} {{result}}")]),
        ("Share of refused requests", "percentunit", [
            (f"sum(rate(anchorgate_token_requests_total{{result!=\"issued\"}}{RATE}))"
             f" / sum(rate(anchorgate_token_requests_total{RATE}))", "refused")]),
        ("Rate limits", "reqps", [(rate("anchorgate_rate_limited_requests_total", "limit"), "{{limit}}")]),
        ("Refused handshakes without an audit record of their own", "cps", [
            (f"sum(rate(anchorgate_audit_suppressed_records_total{RATE}))", "suppressed")]),
        ("Dropped lines", "cps", [(rate("anchorgate_log_dropped_lines_total", "kind"), "{{kind}}")]),
    ]),
    "revocation": ("Revocation freshness", [
        ("Time until nextUpdate", "s", [
            ("anchorgate_crl_next_update_timestamp_seconds - time()", "{{address}}")]),
        ("Age of the list in force", "s", [
            ("time() - anchorgate_crl_this_update_timestamp_seconds", "{{address}}")]),
        ("Time since the last successful fetch", "s", [
            ("time() - anchorgate_crl_last_success_timestamp_seconds", "{{address}}")]),
        ("Fetches by result", "cps", [(rate("anchorgate_crl_fetches_total", "result"), "{{result}}")]),
        ("Revoked certificates by authority", "short", [
            ("sum by (authority) (anchorgate_crl_entries * on (instance, address) group_right ()"
             " anchorgate_crl_authority_info)", "{{authority}}")]),
        ("Size of the lists", "bytes", [
            ("anchorgate_crl_size_bytes", "encoded, {{address}}"),
            ("anchorgate_crl_resident_bytes", "in memory, {{address}}")]),
    ]),
    "sync": ("Directory sync", [
        ("Time since the directory confirmed the trust", "s", [
            ("time() - anchorgate_graph_last_success_timestamp_seconds", "{{source}}")]),
        ("Requests by status class", "reqps", [
            (rate("anchorgate_graph_requests_total", "source, class"), "{{source}} {{class}}")]),
        ("Throttled requests", "reqps", [
            (rate("anchorgate_graph_throttled_requests_total", "source"), "{{source}}")]),
        ("Held back, too old", "short", [
            ("anchorgate_graph_held_back", "held back, {{source}}"),
            ("anchorgate_graph_too_old", "too old, {{source}}")]),
        ("Generation in force", "short", [("anchorgate_trust_generation", "{{instance}}")]),
        ("From a seen change to its coming into force, and publication, 99th percentile", "s", [
            (p(0.99, "anchorgate_trust_change_duration_seconds"), "change"),
            (p(0.99, "anchorgate_trust_publish_duration_seconds"), "publish")]),
    ]),
    "saturation": ("Saturation", [
        ("Connections, share of the limit", "percentunit", [
            ("anchorgate_connections / anchorgate_connections_limit", "{{instance}} {{listener}}")]),
        ("Handshakes in progress, share of the limit", "percentunit", [
            ("anchorgate_handshakes_in_progress / anchorgate_handshakes_in_progress_limit",
             "{{instance}} {{listener}}")]),
        ("Connections that wait for their handshake", "short", [
            ("anchorgate_handshakes_waiting", "{{instance}} {{listener}}")]),
        ("Acceptance paused because of overload, share of time", "percentunit", [
            (f"rate(anchorgate_accept_paused_seconds_total{RATE})", "{{instance}} {{listener}}")]),
        ("Connections not kept", "cps", [
            (rate("anchorgate_connections_not_kept_total", "listener, reason"), "{{listener}} {{reason}}")]),
        ("File descriptors, share of the limit", "percentunit", [
            ("process_open_fds / process_max_fds and on (instance) anchorgate_build_info", "{{instance}}")]),
        ("Memory", "bytes", [
            ("anchorgate_memory_used_bytes", "counted, {{instance}}"),
            ("anchorgate_memory_limit_bytes", "limit, {{instance}}")]),
    ]),
    "capacity": ("Capacity", [
        ("Processors in use", "short", [
            (f"rate(process_cpu_seconds_total{RATE}) and on (instance) anchorgate_build_info", "{{instance}}")]),
        ("Tokens for each second of processor time", "short", [
            (f"sum by (instance) (rate(anchorgate_token_requests_total{{result=\"issued\"}}{RATE})) / on (instance)"
             f" sum by (instance) (rate(process_cpu_seconds_total{RATE}) and on (instance) anchorgate_build_info)",
             "{{instance}}")]),
        ("Resident memory", "bytes", [
            ("process_resident_memory_bytes and on (instance) anchorgate_build_info", "{{instance}}")]),
        ("Handshakes by kind", "cps", [
            (rate("anchorgate_handshake_duration_seconds_count", "kind"), "{{kind}}")]),
        ("Handshakes by version, group and signature", "cps", [
            (rate("anchorgate_handshake_versions_total", "version"), "TLS {{version}}"),
            (rate("anchorgate_handshake_groups_total", "group"), "{{group}}"),
            (rate("anchorgate_handshake_signatures_total", "signature"), "{{signature}}")]),
        ("Days until certificates and anchors expire", "d", [
            ("(anchorgate_server_certificate_not_after_timestamp_seconds - time()) / 86400",
             "server certificate, {{instance}}"),
            ("bottomk(10, (anchorgate_anchor_not_after_timestamp_seconds - time()) / 86400)",
             "{{configuration}} {{anchor}}")]),
    ]),
}


def panel(number, title, unit, queries):
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number + 1, "title": title, "type": "timeseries", "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend}
                    for n, (query, legend) in enumerate(queries)],
    }


def dashboard(name, title, panels):
    return {
        "title": f"anchorgate: {title}", "uid": f"anchorgate-{name}", "schemaVersion": 39, "editable": True,
        "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "tags": ["anchorgate"],
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "links": [{"type": "dashboards", "tags": ["anchorgate"], "title": "anchorgate", "asDropdown": True}],
        "panels": [panel(n, *parts) for n, parts in enumerate(panels)],
    }


def main():
    files = {f"{name}.json": json.dumps(dashboard(name, *parts), indent=1) + "\n" for name, parts in DASHBOARDS.items()}
    for folder in FOLDERS:
        if sys.argv[1:] == ["--check"]:
            found = {file.name: file.read_text() for file in folder.iterdir()}
            assert found == files, f"{folder} is not what dashboards.py writes: run it"
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        for name, text in files.items():
            (folder / name).write_text(text)


main()
