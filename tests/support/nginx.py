"""A real nginx in front of gateways."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from gateway.embedded import free_port
from tests.conftest import need
from tests.support.listening import listening

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

MAIN = """
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


def write_config(folder: Path, http: str) -> Path:
    """Write a complete configuration around the contents of its ``http`` block, which any user can run."""
    need(NGINX, "nginx: apt-get install nginx-light")
    file = folder / "nginx.conf"
    file.write_text(MAIN.format(user="user root;" if os.geteuid() == 0 else "", folder=folder, http=http))
    return file


def check(file: Path) -> subprocess.CompletedProcess[str]:
    """Run ``nginx -t`` on a configuration."""
    assert NGINX
    return subprocess.run(
        [NGINX, "-t", "-p", str(file.parent), "-c", str(file), "-g", "daemon off;"], capture_output=True, text=True, check=False
    )


@contextlib.contextmanager
def running_nginx(folder: Path, http: str, port: int) -> Iterator[None]:
    """Run nginx while the context is open.

    Args:
        folder: for its files, among them ``access.log`` and ``error.log``
        http: the contents of its ``http`` block
        port: one of the ports that it listens on, to know when it has started
    """
    file = write_config(folder, http)
    checked = check(file)
    assert checked.returncode == 0, checked.stderr
    assert NGINX
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(file), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    with listening(process, port, (folder / "error.log").read_text):
        yield


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that are free at this moment."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)
