"""Examination: one look after the other at a deployment, each with what it found.

Nothing is assumed of what stands between: each look compares what came with what the gateway sends. A look that makes the next
ones pointless ends the examination.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.core.event import show
from gateway.doctor.finding import Finding, Kind
from gateway.doctor.streams import OPEN_SECONDS, EventStream, Socket, Stream, make_client

FIRST_SECONDS: Final = 5.0  # for the first bytes of a stream; the gateway sends some at once
EVENTS: Final = 3
LOG_BYTES: Final = 1_048_576
LOG_SECONDS: Final = 1.0  # a proxy writes its log after it has answered


class Over(Exception):
    """There is no use in looking further."""


class Examination:
    """Looks at one deployment.

    Args:
        url: where browsers find it, with its path if it has one
        token: for the gateway; ``None`` where it asks for none
        channel: to follow and to publish on
        patience: seconds for which a quiet stream is watched
        logs: of proxies, to look for tokens in
        tell: called with each finding as it is found
    """

    def __init__(
        self, url: str, tell: Callable[[Finding], None], *, token: str | None, channel: str, patience: float, logs: Sequence[Path] = ()
    ) -> None:
        self._base = url.rstrip("/")
        self._tell = tell
        self._token = token
        self._channel = channel
        self._patience = patience
        self._logs = logs
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._client = make_client(url, OPEN_SECONDS)
        self.wrong = 0

    async def run(self) -> None:
        """Look at everything."""
        async with self._client:
            try:
                await self._reach()
                await self._look_at_tls()
                await self._look_at_metrics()
                await self._look_at_redis()
                await self._look_at_token()
                await self._look_at_address()
                await self._look_at_streams()
            except Over:
                pass
            except (httpx.HTTPError, OSError) as error:
                self._say("wrong", f"a request was not answered: {type(error).__name__} {error}".rstrip(), "cut")

    def _say(self, kind: Kind, text: str, name: str = "") -> None:
        self.wrong += kind == "wrong"
        self._tell(Finding(kind, text, name))

    async def _get(self, path: str, base: str | None = None, **headers: str) -> httpx.Response:
        return await self._client.get(f"{self._base if base is None else base}{path}", headers=headers)

    # Looks

    async def _reach(self) -> None:
        began = time.monotonic()
        try:
            answer = await self._get("/livez")
        except httpx.HTTPError as error:
            name = "certificate" if "CERTIFICATE_VERIFY_FAILED" in str(error) else "unreachable"
            self._say("wrong", f"{self._base} cannot be reached: {type(error).__name__} {error}".rstrip(), name)
            raise Over from None
        if _is_ours(answer):
            self._say("well", f"the gateway answers, in {_ms(time.monotonic() - began)}")
            return
        found = await self._find_elsewhere()
        text = f"{self._base}/livez is not the gateway's: status {answer.status_code}"
        if answer.status_code in (502, 503, 504):
            self._say("wrong", f"{text}: the proxy does not reach the gateway", "unreachable")
        else:
            self._say("wrong", f"{text}, {f'it is at {found}' if found else 'the path is wrong, or something else answers'}", "path")
        raise Over

    async def _find_elsewhere(self) -> str | None:
        """Where the gateway is, if it is at the host's root or at a usual path."""
        parts = urlsplit(self._base)
        for path in ("", "/notify", "/gateway", parts.path * 2):
            base = f"{parts.scheme}://{parts.netloc}{path}"
            with contextlib.suppress(httpx.HTTPError):
                if base != self._base and _is_ours(await self._get("/livez", base)):
                    return base
        return None

    async def _look_at_tls(self) -> None:
        parts = urlsplit(self._base)
        host = parts.hostname or ""
        if parts.scheme == "http":
            local = host in ("localhost", "127.0.0.1", "::1")
            self._say(
                "note" if local else "wrong", "no TLS: tokens can be read on the way, and there is no HTTP/2", "" if local else "plain"
            )
            return
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection(host, parts.port or 443, ssl=context)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
        if chosen == "h2":
            self._say("well", "HTTP/2 is offered")
        else:
            self._say("note", "HTTP/2 is not offered: a browser opens 6 connections to one host, and each SSE stream takes one", "http2")

    async def _look_at_metrics(self) -> None:
        answer = await self._get("/metrics")
        if answer.status_code != 200 or "gateway_" not in answer.text:
            self._say("well", "/metrics is not open to everybody")
        elif "server" in answer.headers or "via" in answer.headers:
            # Our own answers name no server: this one came through a proxy that did not say so to the gateway.
            self._say("wrong", "/metrics is open to everybody: the proxy sends no X-Forwarded-For", "metrics")

    async def _look_at_redis(self) -> None:
        answer = await self._get("/readyz")
        if answer.status_code == 200:
            self._say("well", "events get through Redis")
            return
        detail = answer.json().get("detail") if "json" in answer.headers.get("content-type", "") else f"status {answer.status_code}"
        self._say("wrong", f"not ready: {show(detail, 200)}", "redis")
        raise Over

    async def _look_at_token(self) -> None:
        path = f"/poll?channel={self._channel}&wait=0&since=now"
        answer = await self._get(path, **self._headers)
        if answer.status_code == 200:
            self._say("well", f"channel {self._channel} may be followed")
            return
        detail = show(_detail(answer), 200)
        if answer.status_code == 401 and self._token is None:
            self._say("wrong", "it asks for a token: give one with --token, such as `gateway token --sub doctor …` makes")
        elif answer.status_code == 401 and (await self._get(f"{path}&token={self._token}")).status_code == 200:
            self._say("wrong", "the token counts in the URL and not in the header: the proxy takes Authorization away", "authorization")
        elif answer.status_code == 403:
            self._say("wrong", f"the token is good, but not for this channel: {detail}; choose one with --channel")
        else:
            self._say("wrong", f"the token is refused with {answer.status_code}: {detail}", "token")
        raise Over

    async def _look_at_address(self) -> None:
        """Whether a token in the URL shows up where others read it."""
        marker = f"doctor-{secrets.token_hex(8)}"
        answer = await self._get(f"/poll?channel={self._channel}&wait=0&token={marker}")
        if marker in answer.text or any(marker in value for value in answer.headers.values()):
            self._say("wrong", "a token in the URL comes back in the answer", "shown")
        for log in self._logs:
            shown = await _holds(log, marker.encode())
            self._say(
                "wrong" if shown else "well", f"tokens in URLs are {'' if shown else 'not '}written to {log}", "shown" if shown else ""
            )
        if not self._logs:
            self._say("note", "whether the proxies log tokens in URLs cannot be seen from here: give their logs with --log")

    # Streams

    async def _look_at_streams(self) -> None:
        streams = (Socket(self._base, self._channel, self._headers), EventStream(self._base, self._channel, self._headers))
        async with streams[0] as socket, streams[1] as events:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SECONDS):
                    await asyncio.gather(socket.ready.wait(), events.ready.wait())
            self._look_at_socket(socket)
            self._look_at_event_stream(events)
            opened = [stream for stream in streams if stream.ready.is_set() and stream.ended is None]
            if opened:
                await self._publish(opened)
                await self._wait(opened)

    def _look_at_socket(self, socket: Stream) -> None:
        if socket.ended is None and socket.ready.is_set():
            self._say("well", f"WebSocket opens, in {_ms(socket.first)}")
        elif socket.status == 101 or socket.ended is None:
            self._say("wrong", f"WebSocket opens, and brings nothing in {FIRST_SECONDS:g} s {socket.why}".rstrip(), "cut")
        else:
            self._say("wrong", f"WebSocket does not get through: {socket.why}", "upgrade")

    def _look_at_event_stream(self, events: Stream) -> None:
        if (encoding := events.headers.get("content-encoding")) is not None:
            text = f"SSE is compressed ({show(encoding)}): it costs memory for each client, and many hold events back"
            self._say("wrong", text, "compressed")
        if events.ended is None and events.first is None:
            self._say("wrong", f"SSE is held back: not a byte in {FIRST_SECONDS:g} s, the gateway sends some at once", "buffered")
        elif events.ended is not None or events.status != 200:
            self._say("wrong", f"SSE does not get through: {events.why}", "cut")
        elif "text/event-stream" not in events.headers.get("content-type", ""):
            self._say("wrong", f"SSE comes as {show(events.headers.get('content-type'))}, text/event-stream is expected", "path")
        elif encoding is None:
            self._say("well", f"SSE opens, in {_ms(events.first)}")

    async def _publish(self, streams: Sequence[Stream]) -> None:
        """Publish some events and see how fast they come back."""
        began: dict[str, float] = {}
        for number in range(EVENTS):
            event = {"channel": self._channel, "type": "doctor", "data": number, "keep": 1, "ttl": 60}
            at = time.monotonic()
            answer = await self._client.post(f"{self._base}/publish", json=event, headers=self._headers)
            if answer.status_code != 200:
                self._say("note", f"no event could be published: {answer.status_code} {show(_detail(answer), 200)}")
                return
            began[answer.json()["ids"][self._channel]] = at
        for stream in streams:
            if await _has_all(stream, began):
                took = statistics.median(stream.events[id] - at for id, at in began.items())
                self._say("well", f"an event comes back over {stream.name}, in {_ms(took)}")
            else:
                name = "buffered" if stream.name == "SSE" else "cut"
                self._say("wrong", f"{len(began)} events were published, {len(stream.events)} came over {stream.name}", name)

    async def _wait(self, streams: Sequence[Stream]) -> None:
        """See who cuts a stream on which nothing happens."""
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline and any(stream.ended is None for stream in streams):
            await asyncio.sleep(0.05)
        for stream in streams:
            if stream.ended is None:
                self._say("well", f"{stream.name} is still open after {self._patience:g} s")
            elif stream.why.startswith("closed with 1012"):
                self._say("well", f"{stream.name} was told to reconnect: the gateway restarts, or the stream has grown old")
            elif stream.why.startswith("closed with"):
                self._say("wrong", f"{stream.name} was {stream.why}", "cut")
            else:
                quiet = stream.ended - stream.heard
                self._say("wrong", f"{stream.name} is cut after {quiet:.1f} s without an event: {_advice(quiet)}", "idle")


async def _has_all(stream: Stream, ids: Sequence[str] | dict[str, float]) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_SECONDS):
            while not set(ids) <= stream.events.keys() and stream.ended is None:
                stream.came.clear()
                await stream.came.wait()
    return set(ids) <= stream.events.keys()


async def _holds(log: Path, marker: bytes) -> bool:
    """Whether the end of a log holds it, at once or in a moment."""
    deadline = time.monotonic() + LOG_SECONDS
    while True:
        if marker in _end_of(log):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)


def _end_of(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        return file.read()


def _advice(quiet: float) -> str:
    half = max(1, int(quiet / 2))
    return f"raise the idle timeout on the way above the heartbeat of 20 s, or set GATEWAY_HEARTBEAT_SECONDS={half}"


def _is_ours(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.text == '{"status":"alive"}'


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _ms(seconds: float | None) -> str:
    return "no time" if seconds is None else f"{seconds * 1e3:.0f} ms"


async def examine(url: str, *, token: str | None, channel: str, patience: float, logs: Sequence[Path] = ()) -> AsyncIterator[Finding]:
    """Examine a deployment; each finding as it is found. The arguments are those of ``Examination``."""
    found: asyncio.Queue[Finding | None] = asyncio.Queue()
    examination = Examination(url, found.put_nowait, token=token, channel=channel, patience=patience, logs=logs)
    running = asyncio.ensure_future(examination.run())
    running.add_done_callback(lambda _: found.put_nowait(None))
    try:
        while (finding := await found.get()) is not None:
            yield finding
        await running
    finally:
        running.cancel()
