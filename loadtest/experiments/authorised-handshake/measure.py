"""What does a token add to a handshake? CPU of the gateway for each WebSocket opened and closed, with and without authentication.

    uv run python loadtest/experiments/authorised-handshake/measure.py

The kinds take turns in each round, and the median of each is taken, because other work on the machine disturbs single rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from gateway.embedded import embedded_server
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

HANDSHAKES = 1_000
ROUNDS = 9
AT_ONCE = 10


def cpu(server: Server) -> float:
    """Seconds of CPU that the process has used (Linux)."""
    return int(Path(f"/proc/{server.process.pid}/schedstat").read_text().split()[0]) / 1e9


async def handshake(server: Server, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + head + b"\r\n"
    )
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in answer, answer
    writer.write(b"\x81\x8d\0\0\0\0" + b'{"op":"ping"}')
    pong = await reader.readexactly(15)
    assert b"pong" in pong, pong
    writer.write(b"\x88\x82\0\0\0\0\x03\xe8")
    await reader.read()
    writer.close()


async def one_round(server: Server, heads: Callable[[], bytes]) -> float:
    lines = [heads() for _ in range(HANDSHAKES)]
    before = cpu(server)

    async def some(lines: list[bytes]) -> None:
        for line in lines:
            await handshake(server, line)

    await asyncio.gather(*(some(lines[i::AT_ONCE]) for i in range(AT_ONCE)))
    return (cpu(server) - before) / HANDSHAKES * 1e6


def bearer(token: str) -> bytes:
    return f"Authorization: Bearer {token}\r\n".encode()


def main() -> None:
    one = bearer(make_token(exp=4e9))
    count = iter(range(10**9))
    with (
        embedded_server() as url,
        running_gateway(url) as open_gateway,
        running_gateway(url, auth="jwt", jwt_secret=SECRET) as gateway,
    ):
        kinds: dict[str, tuple[Server, Callable[[], bytes]]] = {
            "no authentication": (open_gateway, lambda: b""),
            "no authentication, with the same header": (open_gateway, lambda: one),
            "a token seen before": (gateway, lambda: one),
            "a token never seen": (gateway, lambda: bearer(make_token(exp=4e9, jti=str(next(count))))),
        }
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(ROUNDS):
            for name, (server, heads) in kinds.items():
                found[name].append(asyncio.run(one_round(server, heads)))
    base = statistics.median(found["no authentication"])
    for name, values in found.items():
        print(f"{statistics.median(values):7.1f} us  {statistics.median(values) - base:+6.1f}  (least {min(values):.1f})  {name}")


if __name__ == "__main__":
    main()
