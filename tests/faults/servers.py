"""Redis, Sentinel and gateway processes that can be killed, paused, and started again at the same address."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.embedded import find_server, free_port

START_SECONDS = 60.0


class Forked:
    """``gateway serve``, forked from multiprocessing's fork server; has those methods of ``Popen`` that are used here."""

    def __init__(self, environ: dict[str, str], port: int, log: Path, before: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.servers", "gateway.app", "gateway.cli", "gateway.server.run", "uvloop"])
        self._process = context.Process(target=_serve, args=(environ, port, str(log), before), daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join()

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _serve(environ: dict[str, str], port: int, log: str, before: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    exec(before, {})
    from gateway.cli import main

    main(["serve", "--port", str(port)])


class Process:
    """A child process with a log file and a fixed port."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | Forked | None = None

    def _launch(self, command: list[str], **options: Any) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    async def _answering(self, client: Redis) -> None:
        """Wait until a Redis or Sentinel answers a PING."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                with suppress(RedisError, OSError):
                    await client.ping()
                    return
                assert self.running, f"{self.name} ended:\n{self.output()}"
                await asyncio.sleep(0.005)

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """Pause it with SIGSTOP: its connections stay open, but nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def stop(self, seconds: float = 20.0) -> int:
        """Terminate it, and wait for its exit status."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.go_on()
        self.process.terminate()
        async with asyncio.timeout(seconds):
            while self.process.poll() is None:
                await asyncio.sleep(0.01)
        status = self.process.returncode
        self.process = None
        return -1 if status is None else status

    def memory(self) -> int:
        """Resident memory in bytes; 0 where there is no /proc."""
        with suppress(OSError):
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def cpu_seconds(self) -> float:
        """CPU time used so far; 0 where there is no /proc."""
        with suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0


class RedisServer(Process):
    """A Valkey or Redis with a folder of its own.

    Args:
        aof: whether it keeps an append-only file, synced every second
        arguments: further command line arguments
        program: path of the program; the embedded Valkey if not given
    """

    def __init__(
        self, folder: Path, name: str = "redis", *, aof: bool = False, arguments: tuple[str, ...] = (), program: str | None = None
    ) -> None:
        super().__init__(folder, name)
        self.folder = folder / name
        self.folder.mkdir()
        self.aof = aof
        self.arguments = arguments
        self.program = program or find_server()
        self._client: Redis | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Redis:
        """A client for the test's own commands; no event of the ledger is published through it."""
        if self._client is None:
            self._client = Redis(port=self.port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        return self._client

    async def start(self, *arguments: str, wait: bool = True) -> None:
        """Start it with the data it has, and wait until it answers."""
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes" if self.aof else "no", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        self._launch([*command, *self.arguments, *arguments])
        if wait:
            await self.answering()

    async def answering(self) -> None:
        """Wait until it has loaded its data and answers."""
        await self._answering(self.client)

    async def replicating(self) -> None:
        """Wait until this replica is connected to its master."""
        async with asyncio.timeout(START_SECONDS):
            while (await self.client.info("replication")).get("master_link_status") != "up":
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        self.kill()

    async def calls(self, command: str) -> int:
        """How often a command was called, from ``INFO commandstats``."""
        found = (await self.client.info("commandstats")).get(f"cmdstat_{command}", {})
        return int(found.get("calls", 0))


class Sentinel(Process):
    """A Sentinel that watches one master. ``lines`` are further lines of its configuration."""

    def __init__(self, folder: Path, name: str = "sentinel", *, service: str = "mymaster", lines: tuple[str, ...] = ()) -> None:
        super().__init__(folder, name)
        self.folder = folder / name
        self.folder.mkdir()
        self.service = service
        self.lines = lines
        self.client = Redis(port=self.port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True)

    async def start(self, master: RedisServer, quorum: int = 1, down_after_ms: int = 1_500, password: str | None = None) -> None:
        self.client.connection_pool.connection_kwargs["password"] = password
        config = self.folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor {self.service} 127.0.0.1 {master.port} {quorum}",
            f"sentinel down-after-milliseconds {self.service} {down_after_ms}",
            f"sentinel failover-timeout {self.service} 3000",
            *self.lines,
        ]
        config.write_text("\n".join(lines) + "\n")
        self._launch([find_server(), str(config), "--sentinel"])
        await self._answering(self.client)

    async def master(self) -> int:
        """The port of the server that it considers to be the master."""
        return int((await self.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service))[1])

    async def replicas(self) -> int:
        """How many healthy replicas it knows."""
        found = await self.client.execute_command("SENTINEL", "REPLICAS", self.service)
        flags = [replica["flags"] if isinstance(replica, dict) else replica[replica.index("flags") + 1] for replica in found]
        return sum(not flag & {"s_down", "o_down", "disconnected"} for flag in map(_flags, flags))

    async def close(self) -> None:
        await self.client.aclose()
        self.kill()


def _flags(found: object) -> set[str]:
    return set(found.split(",")) if isinstance(found, str) else set(found)  # type: ignore[call-overload]


class Gateway(Process):
    """``gateway serve`` on a port of its own.

    Args:
        redis_url: its Redis
        files: its limit of open files, ``None`` for that of this process
        quick: fork it from a process that has imported everything already, which saves a second or two at the start
        before: Python code to run in the process first, such as one that shortens deadlines
        settings: by their lower-case names without ``GATEWAY_``
    """

    def __init__(
        self, folder: Path, name: str, redis_url: str, *, files: int | None = None, quick: bool = False, before: str = "", **settings: str
    ) -> None:
        super().__init__(folder, name)
        self.files = files
        self.quick = quick
        self.before = before
        self.settings = {"redis_url": redis_url, "auth": "none", "drain_seconds": "0"} | settings
        self.http = f"http://127.0.0.1:{self.port}"

    async def start(self, *, wait: bool = True) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environ |= {f"GATEWAY_{name.upper()}": value for name, value in self.settings.items()}
        if self.quick:
            self.process = Forked(environ, self.port, self.log, self.before)
        else:
            code = f"{self.before}\nfrom gateway.cli import main\nmain()"
            self._launch([sys.executable, "-c", code, "serve", "--port", str(self.port)], env=environ)
        if self.files is not None:
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (self.files, self.files))
        if wait:
            await self.ready()

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until it can deliver."""
        async with asyncio.timeout(seconds):
            while await self.status() != 200:
                assert self.running, f"{self.name} ended:\n{self.output()}"
                await asyncio.sleep(0.02)

    async def status(self, path: str = "/readyz") -> int:
        """The HTTP status that it answers with; 0 if there is no answer within 2 s."""
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=2) as client:
                return (await client.get(self.http + path)).status_code
        return 0

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        async with httpx.AsyncClient(timeout=10) as client:
            lines = (await client.get(f"{self.http}/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


def raise_file_limit() -> int:
    """Raise the limit of open files of this process and its children to the highest allowed, and return it."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    return highest
