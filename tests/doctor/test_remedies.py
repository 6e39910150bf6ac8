"""Each remedy says what to change where."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from gateway.doctor import delivery, entrance, examination
from gateway.doctor.remedies import REMEDIES
from tests.support.nginx import check, write_config

PROXIES = {"nginx", "Caddy", "HAProxy", "Apache", "Traefik", "ALB"}


def test_each_thing_that_a_proxy_can_do_wrong_has_a_line_for_each_proxy() -> None:
    for name, remedy in REMEDIES.items():
        assert remedy.keys() >= PROXIES or name in ("redis", "token", "cut"), name
        assert all(remedy.values())


def test_each_remedy_is_one_that_a_look_may_name() -> None:
    nodes = [node for looks in (examination, entrance, delivery) for node in ast.walk(ast.parse(inspect.getsource(looks)))]

    assert {node.value for node in nodes if isinstance(node, ast.Constant)} >= REMEDIES.keys()


@pytest.mark.parametrize("name", ["authorization", "upgrade", "buffered", "compressed", "idle", "metrics", "shown"])
def test_nginx_takes_the_line(tmp_path: Path, name: str) -> None:
    line = REMEDIES[name]["nginx"].partition("   #")[0].replace("…", "/dev/null")
    format, _, rest = line.partition("; ") if name == "shown" else ("", "", line)
    file = write_config(tmp_path, f"{format}{';' if format else ''} server {{ listen 127.0.0.1:1; {rest} }}")

    assert "syntax is ok" in check(file).stderr
