"""Dashboard and alerts ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import metrics

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
ROWS = {row.name: row for row in metrics.TABLE}

_SELECTOR = re.compile(r"(gateway_[a-z_]+)\s*(?:\{([^}]*)\})?")
_LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
OF_PROMETHEUS = {"instance", "job", "le", "namespace", "pod"}


def row_of(name: str) -> Any:
    """The table's row of a series."""
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
    """All that is asked of Prometheus."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    rule = yaml.safe_load(list(yaml.safe_load_all((DEPLOY / "kubernetes" / "monitoring.yaml").read_text()))[1]["data"]["config.yaml"])
    return [*asked, *(alert["expr"] for alert in alerts()), rule["rules"][0]["seriesQuery"]]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_exists_with_its_labels(expression: str) -> None:
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


def test_prometheus_reads_them() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:  # in no distribution's small package
        pytest.skip("needs promtool: it comes with Prometheus")
    checked = subprocess.run([promtool, "check", "rules", str(DEPLOY / "alerts.yml")], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr
