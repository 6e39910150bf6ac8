"""Several events for one client: how many writes does the kernel see?

uv run python loadtest/experiments/joined-writes/measure.py        some seconds; needs strace

One client follows 20 channels; 20 events are published in one pipeline, or one by one.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server, free_port  # noqa: E402 - the path had to be set first

CHANNELS: Final = 20
ROUNDS: Final = 50


async def publish(redis: Redis, name: str, *, pipelined: bool) -> None:
    """Publish an event on each channel."""
    names = [f"{name}:{number}" for number in range(CHANNELS)]
    pipeline = redis.pipeline(transaction=False)
    for channel in names:
        if pipelined:
            pipeline.execute_command("FCALL", "notify_publish", 1, channel, "1")
        else:
            await redis.execute_command("FCALL", "notify_publish", 1, channel, "1")
            await asyncio.sleep(0.01)
    await pipeline.execute()


async def writes(port: int, pid: int, redis: Redis, *, pipelined: bool, path: str, folder: Path) -> float:
    """Writes to the client for a round of events."""
    name = f"{path}-{pipelined}"
    query = "&".join(f"channel={name}:{number}" for number in range(CHANNELS))
    lines = [f"GET /{path}?{query} HTTP/1.1", "Host: localhost"]
    if path == "ws":
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await reader.readuntil(b"ready")
    await publish(redis, name, pipelined=True)  # the first event after a subscription prepares the list of followers
    await asyncio.sleep(0.3)
    log = folder / f"{name}.strace"
    options = ["strace", "-f", "-s", "40", "-e", "trace=write,writev,sendto,sendmsg", "-p", str(pid), "-o", log]
    tracer = subprocess.Popen(options)  # noqa: ASYNC220 - nothing else is to run meanwhile
    await asyncio.sleep(1)
    for _ in range(ROUNDS):
        await publish(redis, name, pipelined=pipelined)
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    tracer.terminate()
    tracer.wait()
    writer.close()
    return len(re.findall(r"\b(?:write|writev|sendto|sendmsg)\(.*type", log.read_text())) / ROUNDS


async def main() -> None:
    with embedded_server() as url, tempfile.TemporaryDirectory() as folder:
        port = free_port()
        environ = os.environ | {"GATEWAY_REDIS_URL": url, "GATEWAY_AUTH": "none", "GATEWAY_LOG_LEVEL": "error"}
        gateway = subprocess.Popen([sys.executable, "-m", "gateway", "serve", "--port", str(port)], cwd=ROOT, env=environ)  # noqa: ASYNC220 - as above
        redis = Redis.from_url(url)
        try:
            await asyncio.sleep(3)
            for path in ("ws", "sse"):
                for pipelined in (True, False):
                    found = await writes(port, gateway.pid, redis, pipelined=pipelined, path=path, folder=Path(folder))
                    how = "in a pipeline" if pipelined else "10 ms apart"
                    print(f"{path}: {CHANNELS} events {how}: {found:.1f} writes to the client")
        finally:
            await redis.aclose()
            gateway.terminate()
            gateway.wait()


if __name__ == "__main__":
    asyncio.run(main())
