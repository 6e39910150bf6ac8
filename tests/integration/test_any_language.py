"""The examples of docs/any-language.md, run unchanged in their languages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from tests.conftest import need
from tests.support.servers import running_gateway

PAGE = Path(__file__).parents[2] / "docs" / "any-language.md"


def example(section: str, *, client: str = "", instead_of: str = "") -> str:
    """The indented lines of a section; of lines that end with a client's name only those of this client."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    return "\n".join(line for line in lines if not instead_of or client in line or not re.search(instead_of, line))


CASES = {"Shell": ("redis-cli", "jobs:42", {"progress", "completed"}), "HTTP": ("curl", "jobs:43", {"completed"})}


def events_of(redis: BlockingRedis, channel: str) -> list[dict[str, Any]]:
    entries: Any = redis.lrange(f"notify:log:{{{channel}}}", 0, -1)
    return [msgspec.json.decode(entry.split(b"\n", 1)[1]) for entry in entries]


def run(*command: str | Path, cwd: Path | None = None, timeout: float = 60, **environ: str) -> str:
    done = subprocess.run(command, check=False, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("section", CASES)
async def test_an_example_publishes(shared_redis_url: str, shared_redis: Redis, section: str) -> None:
    program, channel, types = CASES[section]
    need(shutil.which(program), f"{program}: apt-get install {'redis-tools' if program == 'redis-cli' else program}")
    with running_gateway(shared_redis_url) as gateway:
        environ = os.environ | {"REDIS_URL": shared_redis_url, "NOTIFY_URL": gateway.http, "TOKEN": "none"}
        for _ in range(2):  # with its key, the end is one event however often it is published
            done = subprocess.run(["bash", "-euc", example(section)], env=environ, capture_output=True, text=True, check=True)
            assert "ERR" not in done.stdout, done

    entries = await shared_redis.execute_command("LRANGE", f"notify:log:{{{channel}}}", 0, -1)
    found = [msgspec.json.decode(entry.split(b"\n", 1)[1]) for entry in entries]
    assert [event["type"] for event in found if event.get("final")] == ["completed"]
    assert {event["type"] for event in found} == types


# The programs around the examples.
SIDEKIQ = """
require "json"
{example}
class Export
  include Sidekiq::Worker
  sidekiq_options retry: 0
  def perform(works)
    raise ArgumentError, "a secret" unless works
  end
end
"""
PUSH = 'require "sidekiq"; require "./export"; puts Export.perform_async(true), Export.perform_async(false)'
PHP = """<?php
$redis = new Redis();
$redis->connect("{host}", {port});
[$id, $url] = ["php", "/files/php"];
{example}
"""
GO = """
package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/redis/go-redis/v9"
)

func main() {{
	ctx, job, url := context.Background(), "go", "/files/go"
	rdb := redis.NewClient(&redis.Options{{Addr: "{host}:{port}"}})
{example}
	if err != nil {{
		panic(err)
	}}
	fmt.Println(id)
}}
"""
JAVA = """
import java.util.List;
import redis.clients.jedis.JedisPooled;

public class Main {{
    public static void main(String[] arguments) {{
        String id = "java";
        try (JedisPooled jedis = new JedisPooled("{host}", {port})) {{
{example}
        }}
    }}
}}
"""


def where(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port}


@pytest.fixture(scope="module")
def redis(shared_redis_url: str) -> Any:
    """A Redis into which a gateway has loaded the function."""
    with running_gateway(shared_redis_url), BlockingRedis.from_url(shared_redis_url) as client:
        yield client


def test_ruby_with_sidekiq(redis: BlockingRedis, shared_redis_url: str, tmp_path: Path) -> None:
    sidekiq = shutil.which("sidekiq")
    need(sidekiq, "Sidekiq: apt-get install ruby-sidekiq")
    (tmp_path / "export.rb").write_text(SIDEKIQ.format(example=example("Ruby, with Sidekiq")))
    *_, good, bad = run("ruby", "-e", PUSH, cwd=tmp_path, REDIS_URL=shared_redis_url).split()  # Sidekiq 7 says first where it connects to
    command = [str(sidekiq), "-r", "./export.rb", "-c", "1"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"REDIS_URL": shared_redis_url}, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not all(any(event.get("final") for event in events_of(redis, f"jobs:{job}")) for job in (good, bad)):
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        worker.terminate()
        worker.communicate(timeout=30)

    assert [(event["type"], event.get("final")) for event in events_of(redis, f"jobs:{good}")] == [("started", None), ("completed", True)]
    started, failed = events_of(redis, f"jobs:{bad}")
    assert started["type"] == "started"
    assert failed == {"type": "failed", "data": {"error": "ArgumentError"}, "final": True}


def check_end(redis: BlockingRedis, job: str, data: dict[str, Any]) -> None:
    assert events_of(redis, f"jobs:{job}") == [{"type": "completed", "data": data, "final": True}]


def test_php_with_phpredis(redis: BlockingRedis, shared_redis_url: str, tmp_path: Path) -> None:
    php = shutil.which("php")
    need(php and "redis" in run(php, "-m"), "PHP with phpredis: apt-get install php-cli php-redis")
    code = example("PHP", client="phpredis", instead_of="// Predis$")
    (tmp_path / "publish.php").write_text(PHP.format(example=code, **where(shared_redis_url)))
    for _ in range(2):
        run(str(php), "publish.php", cwd=tmp_path)

    check_end(redis, "php", {"url": "/files/php"})


def need_full(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full", False):
        pytest.skip("fetches and compiles a client library: pytest tests/faults tests/integration/test_any_language.py -k with_ --full")


def test_go_with_go_redis(request: pytest.FixtureRequest, redis: BlockingRedis, shared_redis_url: str, tmp_path: Path) -> None:
    need_full(request)
    go = shutil.which("go")
    need(go, "Go 1.24 or later")
    (tmp_path / "main.go").write_text(GO.format(example=textwrap.indent(example("Go"), "\t"), **where(shared_redis_url)))
    run(str(go), "mod", "init", "example", cwd=tmp_path)
    run(str(go), "get", "github.com/redis/go-redis/v9", cwd=tmp_path)
    for _ in range(2):
        run(str(go), "run", ".", cwd=tmp_path, timeout=300)

    check_end(redis, "go", {"url": "/files/go"})


def test_java_with_jedis(request: pytest.FixtureRequest, redis: BlockingRedis, shared_redis_url: str, tmp_path: Path) -> None:
    need_full(request)
    java, maven = shutil.which("java"), shutil.which("mvn")
    need(java and maven, "Java and Maven: apt-get install openjdk-17-jdk-headless maven")
    (tmp_path / "pom.xml").write_text(POM)
    copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    run(str(maven), "-q", "-B", copy, "-DoutputDirectory=jars", cwd=tmp_path, timeout=300)
    code = example("Java", client="Jedis", instead_of="// Lettuce$")
    (tmp_path / "Main.java").write_text(JAVA.format(example=textwrap.indent(code, " " * 12), **where(shared_redis_url)))
    for _ in range(2):
        run(str(java), "-cp", "jars/*", "Main.java", cwd=tmp_path)

    check_end(redis, "java", {})


POM = """
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>example</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>redis.clients</groupId><artifactId>jedis</artifactId><version>5.2.0</version></dependency>
  </dependencies>
</project>
"""
