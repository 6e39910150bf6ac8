"""Can an event stream carry blocks that were compressed once for all of its clients? Asks Chromium, and zlib.

uv run python loadtest/experiments/compressed-events/streams.py        some seconds; needs chromium
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import sys
import tempfile
import zlib
from collections import defaultdict
from contextlib import suppress
from typing import Final

HEAD: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952, section 2.3
EVENTS: Final = 3


def block(data: bytes) -> bytes:
    """A deflated block by a fresh compressor, without an end mark. It refers to nothing before it, so it may follow any other block."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def one_member(number: int, data: bytes) -> bytes:
    """One gzip member for the whole stream: its head, then blocks that all clients share."""
    return (HEAD if number == 0 else b"") + block(data)


def member_each(number: int, data: bytes) -> bytes:
    """A whole gzip member for each event."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return HEAD + packer.compress(data) + packer.flush() + struct.pack("<II", zlib.crc32(data), len(data))


def plain(number: int, data: bytes) -> bytes:
    return data


WAYS: Final = {"plain": plain, "one member": one_member, "a member each": member_each}
PAGE: Final = b"""<script>
for (const way of ["plain", "one member", "a member each"]) {
  const source = new EventSource("/sse?" + way);
  source.onmessage = (e) => fetch(`/seen?${way}?${e.data.length}`);
  source.onerror = () => source.close();
}
</script>"""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main() -> None:
    seen: defaultdict[str, int] = defaultdict(int)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):  # the browser may close the connection at any time
            await respond(reader, writer)
        writer.close()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().replace("%20", " ")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
        if path.startswith("/sse?"):
            name = path[5:]
            writer.write(b"Content-Encoding: gzip\r\n" * (name != "plain"))
            writer.write(b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(EVENTS):
                writer.write(chunk(WAYS[name](number, b"data: %b\n\n" % (b"x" * 2_000))))
                await asyncio.sleep(0.5)
            await asyncio.sleep(5)  # the events must reach the page before the stream ends
        elif path.startswith("/seen?"):
            seen[path.split("?")[1]] += 1
            writer.write(b"Content-Length: 0\r\n\r\n")
        else:
            writer.write(b"Content-Type: text/html\r\n\r\n" + PAGE)
        await writer.drain()

    for name, way in WAYS.items():
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        if name != "plain":
            print(
                f"zlib, {name}: {len(b''.join(unpacker.decompress(way(n, b'x' * 2_000)) for n in range(EVENTS)))} of {EVENTS * 2_000} bytes"
            )
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    browser = shutil.which("chromium") or sys.exit("chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        process = await asyncio.create_subprocess_exec(browser, *options, f"http://127.0.0.1:{port}/", stdout=-3, stderr=-3)
        await asyncio.sleep(6)
        process.terminate()
        await process.wait()
    for name in WAYS:
        print(f"Chromium, {name}: {seen[name]} of {EVENTS} events before the stream ends")


if __name__ == "__main__":
    asyncio.run(main())
