"""Gateways, and an nginx in front of them with a server for each mistake that the doctor should find."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.doctor import delivery
from gateway.doctor.examination import examine
from gateway.doctor.finding import Finding
from gateway.embedded import embedded_server
from tests.support.listening import refusing_port, wait_until_it_listens
from tests.support.nginx import free_ports, running_nginx
from tests.support.servers import running_gateway
from tests.support.tls import write_certificate
from tests.support.tokens import SECRET

PROXY = """
            proxy_pass http://127.0.0.1:{target};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
"""
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrade;"
GZIP = "gzip on; gzip_types text/event-stream; gzip_min_length 0;"
OTHER_TYPE = "proxy_hide_header Content-Type; add_header Content-Type text/plain;"
GOOD = PROXY + UPGRADE + "proxy_buffering off;"

# name -> the gateway behind it, and its locations
SERVERS = {
    "good": ("open", f"location / {{ {GOOD} }}"),
    # Even with buffering nginx passes on what it has; only with compression does it wait until it has enough.
    "buffering": ("open", f"location / {{ {PROXY} {UPGRADE} {GZIP} proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; }}"),
    "idle": ("open", f"location / {{ {GOOD} proxy_read_timeout 2s; }}"),
    "gzip": ("open", f"location / {{ {GOOD} {GZIP} }}"),
    "no upgrade": ("open", f"location / {{ {PROXY} proxy_buffering off; }}"),
    "path kept": ("open", f"location /notify/ {{ {GOOD} }} location / {{ return 404; }}"),
    "path moved": ("open", f"location /notify/ {{ {GOOD.replace('{target};', '{target}/;')} }} location / {{ return 404; }}"),
    "hidden": ("open", f"location / {{ {GOOD.replace('X-Forwarded-For', 'X-Nothing')} }}"),
    "quiet": ("open", f"access_log {{folder}}/quiet.log quiet; location / {{ {GOOD} }}"),
    "tls": ("open", f"location / {{ {GOOD} }}"),
    "tls 1.1": ("open", f"location / {{ {GOOD} }}"),
    "token": ("jwt", f"location / {{ {GOOD} }}"),
    "no authorization": ("jwt", f"location / {{ {GOOD} proxy_set_header Authorization ''; }}"),
    "redis down": ("lost", f"location / {{ {GOOD} }}"),
    "nobody": ("none", f"location / {{ {GOOD} }}"),
    "page": ("open", f"location / {{ {GOOD} }} location = /publish {{ return 200 '<p>Hello'; }}"),
    "sent on": ("open", f"location / {{ {GOOD} }} location = /ws {{ return 301 https://other.example/ws; }}"),
    "cut": ("open", f"location / {{ {GOOD} }} location = /metrics {{ return 444; }}"),
    "no sse": ("open", f"location / {{ {GOOD} }} location = /sse {{ return 404; }}"),
    "other type": ("open", f"location / {{ {GOOD} }} location = /sse {{ {GOOD} {OTHER_TYPE} }}"),
    "maintenance": ("open", f"location / {{ {GOOD} }} location = /readyz {{ default_type application/json; return 503 '[]'; }}"),
}


LISTEN = {"tls": " ssl http2", "tls 1.1": " ssl"}


@dataclass
class Deployments:
    """Where each of ``SERVERS`` listens, and nginx's folder."""

    ports: dict[str, int]
    folder: Path

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for the first event, because the machine may be busy with other tests."""
    monkeypatch.setattr(delivery, "FIRST_SECONDS", 20.0)


async def wrong(url: str, **options: Any) -> list[Finding]:
    """The findings of an examination that are wrong."""
    chosen: dict[str, Any] = {"token": None, "channel": "doctor", "patience": 0.3} | options
    return [finding async for finding in examine(url, **chosen) if finding.kind == "wrong"]


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    folder = tmp_path_factory.mktemp("nginx")
    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(embedded_server())
        open_to_all = stack.enter_context(running_gateway(redis_url))
        jwt = stack.enter_context(running_gateway(redis_url, auth="jwt", jwt_secret=SECRET))
        lost = stack.enter_context(running_gateway(f"redis://127.0.0.1:{stack.enter_context(refusing_port())}", wait=False))
        wait_until_it_listens(lost.process, lost.port, lost.output)
        while "there is no connection" not in httpx.get(f"{lost.http}/readyz").text:  # it says something else at first
            time.sleep(0.05)
        ports = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))  # chosen now, when the gateways have theirs
        targets = {"open": open_to_all.port, "jwt": jwt.port, "lost": lost.port, "none": stack.enter_context(refusing_port())}
        servers = []
        for name, (target, locations) in SERVERS.items():
            text = locations.replace("{target}", str(targets[target])).replace("{folder}", str(folder))
            listen = f"127.0.0.1:{ports[name]}{LISTEN.get(name, '')};"
            servers.append(f"server {{ listen {listen} {text} }}")
        write_certificate(folder)
        http = f"ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;"
        http += "map $http_upgrade $upgrade { default upgrade; '' ''; } log_format quiet '$request_method $uri';" + "\n".join(servers)
        stack.enter_context(running_nginx(folder, http, ports["good"]))
        yield Deployments(ports, folder)
