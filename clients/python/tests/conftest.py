"""Real servers for the tests: Valkey, an old Redis, gateways, and a proxy that loses replies."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from notify_client import Publisher
from redis.backoff import NoBackoff
from redis.retry import Retry

from clients.python.tests.common import SECRET, TRANSPORTS, Twin
from gateway.embedded import embedded_server, free_port
from tests.support import programs
from tests.support.listening import refusing_port
from tests.support.ports import take_share
from tests.support.servers import running_gateway

take_share()

SOURCE = Path(__file__).parents[1] / "notify_client" / "publish.lua"


def library(prefix="notify"):
    text = SOURCE.read_text()
    for place, value in (("@PREFIX@", prefix), ("@MAX_EVENT_BYTES@", "65536"), ("@RESIDENT@", "true")):
        text = text.replace(place, value)
    name = f"{prefix}_publish"
    return (
        f"#!lua name={prefix}\n{text}\nredis.register_function('{name}', function(keys, args) return answer(publish, keys[1], args) end)\n"
    )


class Server:
    """A Redis server on a port of its own that can be killed, paused, and started again without data."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.redis = redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0))
        self.start()

    def start(self, program=None):
        words = [program or self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--tcp-backlog", "64"]
        self.process = subprocess.Popen(words, cwd=self.folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            with suppress(redis.ConnectionError):
                self.redis.ping()
                return
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def load(self, prefix="notify"):
        self.redis.execute_command("FUNCTION", "LOAD", "REPLACE", library(prefix))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def log(self, channel="jobs:1", prefix="notify"):
        return [entry.split(b"\n", 1)[1] for entry in self.redis.lrange(f"{prefix}:log:{{{channel}}}", 0, -1)]

    def calls(self, command):
        return int(self.redis.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))

    def close(self):
        self.redis.close()
        self.kill()


@pytest.fixture
def valkey_program():
    return programs.valkey_program()


@pytest.fixture
def valkey(valkey_program, tmp_path) -> Iterator[Server]:
    """Valkey with the function loaded, as a gateway does at its start."""
    server = Server(valkey_program, tmp_path)
    server.load()
    yield server
    server.close()


@pytest.fixture
def old_redis(tmp_path) -> Iterator[Server]:
    """Redis 6.2, which has no functions."""
    server = Server(programs.old_redis_program(), tmp_path)
    yield server
    server.close()


class Proxy:
    """Forwards connections to a Redis server, and discards replies on command.

    Attributes:
        lose: how many replies to discard, closing the connection each time
        hold: how many replies to discard, keeping the connection open
        lost: how many replies were discarded
        match: only replies to requests that contain these bytes are discarded
    """

    def __init__(self, port):
        self.lose = 0
        self.lost = 0
        self.hold = 0
        self.match = b"FCALL"
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, suppress(OSError):
            while request := client.recv(1 << 20):
                server.sendall(request)
                answer = server.recv(1 << 20)
                if self.lose and self.match in request:
                    self.lose -= 1
                    self.lost += 1
                    return
                if self.hold and self.match in request:
                    self.hold -= 1
                    self.lost += 1
                    continue
                client.sendall(answer)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy(valkey) -> Iterator[Proxy]:
    proxy = Proxy(valkey.port)
    yield proxy
    proxy.close()


@pytest.fixture(params=[Publisher, Twin], ids=["threads", "asyncio"])
def connect(request):
    """A function that makes publishers; each test runs once with the blocking kind and once with the asyncio kind."""
    made = []

    def make(*args, timeout=10, **kwargs):  # seconds: as on a machine that others use too
        made.append(request.param(*args, timeout=timeout, **kwargs))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that does not answer connection attempts, because the backlog of its listener is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        for connection in waiting:
            connection.close()


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that accepts connections and never replies."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def refused() -> Iterator[str]:
    with refusing_port() as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def redis_url():
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module")
def gateway(redis_url):
    with running_gateway(redis_url) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(redis_url):
    with running_gateway(redis_url, auth="jwt", jwt_secret=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def publisher(redis_url):
    with Publisher(redis_url, timeout=5) as publisher:
        yield publisher


@pytest.fixture
def channel(request):
    return f"t:{abs(hash(request.node.name))}"


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param
