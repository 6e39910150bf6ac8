"""The samples for systemd, Caddy, Docker and compose: checked by the tool itself where it is installed, and by their text."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from gateway.settings import Settings, read_settings
from tests.conftest import need
from tests.support.caddy import check

ROOT = Path(__file__).parent.parent.parent
NAMES = {f"GATEWAY_{field.name.upper()}" for field in dataclasses.fields(Settings)}


def unit() -> str:
    return (ROOT / "deploy" / "gateway.service").read_text()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    need(tool, "systemd-analyze: apt-get install systemd")
    assert tool
    file = tmp_path / "gateway.service"
    program = tmp_path / "gateway"  # the interpreter's own folder may have a space in its name
    program.symlink_to(sys.executable)
    file.write_text(unit().replace("/opt/gateway/bin/gateway", str(program)))
    checked = subprocess.run([tool, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False)

    told = [line for line in checked.stderr.splitlines() if "gateway.service" in line]
    assert (checked.returncode, told) == (0, [])


def test_the_unit_sets_existing_settings_and_leaves_time_to_drain() -> None:
    given = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit(), re.MULTILINE))
    settings = read_settings({name: value for name, value in given.items() if not name.endswith("_FILE")})
    seconds = re.search(r"^TimeoutStopSec=(\d+)$", unit(), re.MULTILINE)

    assert {name.removesuffix("_FILE") for name in given} <= NAMES
    assert seconds is not None
    assert int(seconds[1]) >= settings.drain_seconds + 10
    assert "KillMode=mixed" in unit()


def test_the_unit_waits_for_a_redis_that_is_not_there_yet() -> None:
    lines = unit().splitlines()

    assert "StartLimitIntervalSec=0" in lines
    assert "ExecStartPre=-/opt/gateway/bin/gateway check" in lines


def test_caddy_accepts_the_sample_unchanged(tmp_path: Path) -> None:
    """Including TLS, which the test that runs Caddy leaves out."""
    file = tmp_path / "Caddyfile"
    file.write_text((ROOT / "deploy" / "Caddyfile").read_text())
    checked = check(file)

    assert checked.returncode == 0, checked.stderr
    assert not re.search(r'"level":"(warn|error)"', checked.stderr), checked.stderr


def test_the_caddyfile_closes_its_blocks_and_hides_tokens_and_metrics() -> None:
    text = re.sub(r"#.*", "", (ROOT / "deploy" / "Caddyfile").read_text())

    assert text.count("{") == text.count("}")
    for line in ("delete token", "delete ticket", "respond /metrics 404", "flush_interval -1"):
        assert line in text


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_compose_accepts_the_file_without_any_setting() -> None:
    tool = shutil.which("docker-compose")
    need(tool, "docker-compose: apt-get install docker-compose")
    assert tool
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    checked = subprocess.run([tool, "config", "--quiet"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr


def test_compose_sets_existing_settings_and_leaves_time_to_drain() -> None:
    gateway = compose()["services"]["gateway-1"]
    given = gateway["environment"] | {"GATEWAY_JWT_SECRET": "x" * 32}

    assert read_settings(given).host == "0.0.0.0"
    assert int(gateway["stop_grace_period"].removesuffix("s")) >= Settings().drain_seconds + 10


def test_what_compose_mounts_and_waits_for_exists() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in volumes, (name, volume)
        assert set(service.get("depends_on", {})) <= set(services), name
    optional = {name for name, service in services.items() if service.get("profiles") == ["metrics"]}
    assert optional == {"scrape-token", "prometheus", "grafana"}


def test_nginx_and_prometheus_know_the_gateways_of_compose() -> None:
    gateways = {f"{name}:8000" for name in compose()["services"] if name.startswith("gateway-")}
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]

    assert set(scraped) == gateways
    assert set(re.findall(r"server (\S+:8000) ", (ROOT / "deploy" / "nginx.conf").read_text())) == gateways


def test_nginx_in_compose_soon_gives_up_a_client_that_has_vanished() -> None:
    """Its kernel takes the gateway's heartbeats for that client, so nothing but this limit tells it, or the gateway."""
    first, last = 0.2, 120.0  # seconds: pauses between retries, each twice as long as the one before (tcp(7), tcp_retries2)
    retries = compose()["services"]["nginx"]["sysctls"]["net.ipv4.tcp_retries2"]

    assert sum(min(last, first * 2**i) for i in range(retries + 1)) < 120


def test_the_image_runs_as_nobody_looks_after_itself_and_has_all_it_copies() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()]
    kept = (ROOT / ".dockerignore").read_text().splitlines()

    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in kept
