"""The dashboard and the alerts query existing metrics, and a real Prometheus evaluates them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway import metrics
from gateway.embedded import free_port
from tests.conftest import need
from tests.support.listening import listening
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
ROWS = {row.name: row for row in metrics.TABLE}

_SELECTOR = re.compile(r"(gateway_[a-z_]+)\s*(?:\{([^}]*)\})?")
_LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
OF_PROMETHEUS = {"instance", "job", "le", "namespace", "pod"}


def row_of(name: str) -> Any:
    """The metric that a series belongs to."""
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    row = ROWS.get(name) or (ROWS[plain] if plain in ROWS and ROWS[plain].kind == "histogram" else None)
    assert row is not None, f"there is no metric {name}"
    assert row.kind != "histogram" or name != plain, f"{name} is a histogram: its _bucket, _sum or _count"
    return row


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def alerts() -> Any:
    return yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]


def expressions() -> list[str]:
    """All queries of the dashboard and the alerts."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    rule = yaml.safe_load(list(yaml.safe_load_all((DEPLOY / "kubernetes" / "monitoring.yaml").read_text()))[1]["data"]["config.yaml"])
    return [*asked, *(alert["expr"] for alert in alerts()), rule["rules"][0]["seriesQuery"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_and_label_that_is_queried_exists(expression: str) -> None:
    for name, selector in _SELECTOR.findall(expression):
        row = row_of(name)
        for label, wanted in _LABEL.findall(selector):
            assert label in OF_PROMETHEUS | {row.label}, f"{name} has no label {label}"
            if label == row.label:
                assert set(wanted.split("|")) <= set(row.cells), f"{name}: {label} is never {wanted}"
        for label in re.findall(r"by \(([^)]*)\)", expression):
            assert set(label.replace(" ", "").split(",")) <= OF_PROMETHEUS | {row.label}, expression


def test_each_metric_is_on_the_dashboard() -> None:
    asked = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", []))

    assert [name for name in ROWS if name not in asked] == []


def test_no_two_panels_cover_each_other() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]

    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)


def test_each_alert_says_what_to_do() -> None:
    for alert in alerts():
        assert alert["annotations"].keys() == {"summary", "action"}, alert["alert"]
        assert alert["labels"]["severity"] in ("page", "ticket")
    assert len({alert["alert"] for alert in alerts()}) == len(alerts())


SEEN = 'gateway_connections{transport="sse"} and on(instance) count_over_time(up[1m]) >= 2'
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")


def promtool(*arguments: object) -> None:
    """Run promtool, which must find nothing wrong."""
    need(PROMTOOL, "promtool: apt-get install prometheus")
    checked = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts_test.yml").read_text()
    (tmp_path / "cases.yml").write_text(cases.replace("RULES", str(DEPLOY / "alerts.yml")))

    promtool("check", "rules", DEPLOY / "alerts.yml")
    promtool("test", "rules", tmp_path / "cases.yml")
    assert {alert["alert"] for alert in alerts()} == set(re.findall(r'alertname="(\w+)"', cases))


@contextlib.contextmanager
def running_prometheus(folder: Path, gateway: Server, token: str) -> Iterator[httpx.Client]:
    """Run Prometheus with the sample configuration; it scrapes this gateway under two host names, twice a second."""
    need(PROMETHEUS, "prometheus: apt-get install prometheus")
    (folder / "token").write_text(token)
    text = (DEPLOY / "prometheus.yml").read_text()
    for old, new in {
        "scrape_interval: 15s": "scrape_interval: 500ms\n  evaluation_interval: 500ms",
        "/etc/prometheus/alerts.yml": str(DEPLOY / "alerts.yml"),
        "/run/scrape/token": str(folder / "token"),
        "gateway-1:8000": f"127.0.0.1:{gateway.port}",
        "gateway-2:8000": f"localhost:{gateway.port}",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    promtool("check", "config", folder / "prometheus.yml")
    port = free_port()
    command = [str(PROMETHEUS), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    with (
        listening(process, port, (folder / "log").read_text, end_seconds=15),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20) as client,
    ):
        deadline = time.monotonic() + 30
        while client.get(f"http://127.0.0.1:{port}/-/ready").status_code != 200:
            time.sleep(0.1)
            assert time.monotonic() < deadline, (folder / "log").read_text()
        yield client


def asked(prometheus: httpx.Client, expression: str) -> list[float]:
    """The values of a query."""
    answer = prometheus.get("/query", params={"query": expression}).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    return [float(found["value"][1]) for found in answer["data"]["result"]]


def rules(prometheus: httpx.Client) -> dict[str, str]:
    """The health of each alert: ``ok``, ``err`` or ``unknown``."""
    groups = prometheus.get("/rules").json()["data"]["groups"]
    return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}


def test_a_real_prometheus_answers_each_panel(shared_redis_url: str, tmp_path: Path) -> None:
    with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET) as gateway:
        token = make_token("prometheus", admin=True, subscribe=["prometheus"])
        with (
            running_prometheus(tmp_path, gateway, token) as prometheus,
            httpx.stream("GET", f"{gateway.http}/sse?channel=prometheus&token={token}") as stream,
        ):
            assert stream.status_code == 200, stream.read()
            deadline = time.monotonic() + 60  # it starts to scrape after five seconds
            while asked(prometheus, SEEN) != [1.0, 1.0] or "unknown" in rules(prometheus).values():
                time.sleep(0.2)
                assert time.monotonic() < deadline, (asked(prometheus, "up"), asked(prometheus, SEEN), rules(prometheus))
            for panel in dashboard()["panels"]:
                for target in panel.get("targets", []):
                    found = asked(prometheus, target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*"))
                    assert found or target["expr"].endswith("> 0"), f"{panel['title']}: nothing for {target['expr']}"
            healthy = rules(prometheus)

    assert healthy == {alert["alert"]: "ok" for alert in alerts()}
