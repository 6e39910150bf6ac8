"""Does it pay to compress an event once for all of its clients? Measures CPU and bytes on the wire for each delivery.

uv run --group loadtest python loadtest/experiments/compressed-events/measure.py        two minutes

A WebSocket frame that is compressed on its own may go to every client that negotiated ``server_no_context_takeover`` (RFC 7692,
section 7.1.1.1). The prototype sends such frames without negotiation, which is enough here: the measuring clients do not decode
frames and only search for the time of publishing, which follows in a second, uncompressed frame.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil
import redis

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.core import wire  # noqa: E402 - the path had to be set first
from gateway.core.event import Event  # noqa: E402
from gateway.embedded import embedded_server  # noqa: E402
from loadtest.compare.measure import compile_programs, cpu, started  # noqa: E402
from loadtest.compare.target import GATEWAY, Place, Target  # noqa: E402

CLIENTS: Final = 2_000
LEVEL: Final = 1  # 6 takes twice the time for a tenth less
WORKS: Final = ((1_024, 30, 10.0), (8_192, 30, 5.0), (60_000, 8, 1.0))  # bytes, events, events a second
RESERVED_BIT: Final = 0x40
KEPT: Final = 1_000


def rows(size: int) -> list[dict[str, object]]:
    """Rows such as a dashboard receives, of about this many bytes of JSON."""
    chance = random.Random(size)
    found: list[dict[str, object]] = []
    while len(json.dumps(found)) < size - 60:
        state = chance.choice(["queued", "running", "completed", "failed"])
        who = chance.choice(["Ann", "Bert", "Carla", "Dimitri", "Elif"])
        found.append({"order": chance.randrange(10**6), "state": state, "customer": who, "total": round(chance.uniform(5, 500), 2)})
    return found


def deflate(data: bytes, level: int = LEVEL) -> bytes:
    """Compress a message on its own, ending on a byte boundary (RFC 7692, section 7.2.1)."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compressed_frame(event: Event) -> bytes:
    """A compressed frame with the event, and an uncompressed one with the time of publishing."""
    stamp = re.search(rb"\^\d+\^", event.json)
    frame = wire.text_frame(deflate(event.json))
    return bytes((frame[0] | RESERVED_BIT,)) + frame[1:] + wire.text_frame(stamp[0] if stamp else b"")


def serve() -> None:
    """Run the gateway with such frames."""
    wire.FRAME.event = compressed_frame
    from gateway.cli import main  # noqa: PLC0415

    main(sys.argv[1:])


def compressing(target: Target) -> Target:
    """The same target as the prototype."""

    def command(place: Place) -> list[str]:
        words = list(target.command(place))
        at = words.index("-m")
        return [*words[:at], __file__, *words[at + 2 :]]

    return replace(target, command=command)


def run(target: Target, work: tuple[int, int, float], folder: Path, url: str) -> tuple[float, float, float]:
    """Microseconds of CPU and bytes for each delivery, and p99 in milliseconds."""
    size, count, rate = work
    data = rows(size)
    with tempfile.TemporaryDirectory(dir=folder) as own, started(target, Path(own), folder, url) as (place, server):
        words = [folder / "subscribers", place.port, CLIENTS, CLIENTS * count, 20, "ready", target.request(place.port)]
        with (
            subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as clients,
            redis.Redis.from_url(url) as client,
        ):
            assert clients.stdout is not None
            assert clients.stdout.readline().split() == ["ready", str(CLIENTS)]
            time.sleep(0.5)
            before, began = cpu(server), time.monotonic()
            for number in range(count):
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
                body = json.dumps({"type": "rows", "data": {"sent": f"^{time.time_ns()}^", "rows": data}}, separators=(",", ":"))
                client.execute_command("FCALL", "notify_publish", 1, "room", body)
            found = dict(re.findall(r"([a-z]\w+) (\d+)", clients.stdout.readline()))
            used = (cpu(server) - before) / 1e3
    assert int(found["events"]) == CLIENTS * count, found
    return used / CLIENTS / count, int(found["bytes"]) / CLIENTS / count, int(found["p99"]) / 1e3


def kept() -> float:
    """KiB of a compressor that is kept for a connection, as context takeover needs it."""
    process = psutil.Process()
    before = process.memory_info().rss
    packers = [zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS) for _ in range(KEPT)]
    for packer in packers:
        packer.compress(b"x" * 1_000)
        packer.flush(zlib.Z_SYNC_FLUSH)
    return (process.memory_info().rss - before) / KEPT / 1024


def main() -> None:
    print(f"a compressor kept for a connection: {kept():.0f} KiB")
    with tempfile.TemporaryDirectory() as folder, embedded_server() as url:
        compile_programs(Path(folder))
        for work in WORKS:
            json_bytes = json.dumps(rows(work[0]), separators=(",", ":")).encode()
            for level in (1, 6):
                began = time.perf_counter()
                for _ in range(20):
                    packed = deflate(json_bytes, level)
                took = (time.perf_counter() - began) / 20 * 1e6
                print(f"{len(json_bytes):,} bytes, level {level}: {took:.0f} us, {len(packed):,} bytes")
            for name, target in (("plain", GATEWAY[0]), ("compressed once", compressing(GATEWAY[0]))):
                for _ in range(2):
                    used, size, p99 = run(target, work, Path(folder), url)
                    print(f"{work[0]:,} bytes, {name}: {used:.2f} us/delivery, {size:,.0f} bytes/delivery, p99 {p99:.0f} ms", flush=True)


if __name__ == "__main__":
    serve() if len(sys.argv) > 1 else main()
