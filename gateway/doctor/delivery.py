"""Delivery: checks whether events come through, and whether streams stay open.

Nothing is assumed about the proxies in between: what arrives is compared with what the gateway is known to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Collection, Sequence
from typing import Final

from gateway.core.event import show
from gateway.doctor.deployment import Deployment, milliseconds, problem_of
from gateway.doctor.streams import EventStream, Socket, Stream

FIRST_SECONDS: Final = 5.0  # for the first bytes of a stream; the gateway sends some at once
EVENTS: Final = 3


async def check_delivery(deployment: Deployment, patience: float) -> None:
    """Check whether streams open, bring events, and stay open although nothing happens for ``patience`` seconds."""
    streams = (
        Socket(deployment.base, deployment.channel, deployment.headers),
        EventStream(deployment.base, deployment.channel, deployment.headers),
    )
    async with streams[0] as socket, streams[1] as events:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await asyncio.gather(socket.ready.wait(), events.ready.wait())
        _check_socket(deployment, socket)
        _check_event_stream(deployment, events)
        opened = [stream for stream in streams if stream.ready.is_set() and stream.ended is None]
        if opened:
            await _publish(deployment, opened)
            await _wait(deployment, opened, patience)


def _check_socket(deployment: Deployment, socket: Stream) -> None:
    if socket.ended is None and socket.ready.is_set():
        deployment.report("ok", f"WebSocket opens, in {milliseconds(socket.first)}")
    elif socket.status == 101 or socket.ended is None:
        deployment.report("wrong", f"WebSocket opens, and brings nothing in {FIRST_SECONDS:g} s {socket.why}".rstrip(), "cut")
    else:
        deployment.report("wrong", f"WebSocket does not get through: {socket.why}", "upgrade")


def _check_event_stream(deployment: Deployment, events: Stream) -> None:
    if (encoding := events.headers.get("content-encoding")) is not None:
        text = f"SSE is compressed ({show(encoding)}): it costs memory for each client, and many hold events back"
        deployment.report("wrong", text, "compressed")
    if events.ended is None and events.first is None:
        deployment.report("wrong", f"SSE is held back: not a byte in {FIRST_SECONDS:g} s, the gateway sends some at once", "buffered")
    elif events.ended is not None or events.status != 200:
        deployment.report("wrong", f"SSE does not get through: {events.why}", "cut")
    elif "text/event-stream" not in events.headers.get("content-type", ""):
        deployment.report("wrong", f"SSE comes as {show(events.headers.get('content-type'))}, text/event-stream is expected", "path")
    elif encoding is None:
        deployment.report("ok", f"SSE opens, in {milliseconds(events.first)}")


async def _publish(deployment: Deployment, streams: Sequence[Stream]) -> None:
    """Publish some events, and check whether and how fast they come back."""
    began: dict[str, float] = {}
    for number in range(EVENTS):
        at = time.monotonic()
        answer = await deployment.publish(type="doctor", data=number, keep=1, ttl=60)
        if answer.status_code != 200:
            text = f"no event could be published: {answer.status_code} {problem_of(answer)}"
            # The token, or a proxy, may well allow nobody to publish from outside.
            failed = answer.status_code >= 500
            deployment.report("wrong" if failed else "note", text, "redis" if failed else "")
            return
        try:
            began[answer.json()["ids"][deployment.channel]] = at
        except (ValueError, LookupError, TypeError):  # such as the page of an application that answers whatever it does not know
            deployment.report("wrong", "POST /publish is not answered by the gateway, but by something else", "path")
            return
    for stream in streams:
        if await _has_all(stream, began):
            took = statistics.median(stream.events[id] - at for id, at in began.items())
            deployment.report("ok", f"an event comes back over {stream.name}, in {milliseconds(took)}")
        else:
            name = "buffered" if stream.name == "SSE" else "cut"
            deployment.report("wrong", f"{len(began)} events were published, {len(stream.events)} came over {stream.name}", name)


async def _wait(deployment: Deployment, streams: Sequence[Stream], patience: float) -> None:
    """Check whether quiet streams stay open, and find out who ended those that did not."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(stream.ended is None for stream in streams):
        await asyncio.sleep(0.05)
    for stream in streams:
        if stream.ended is None:
            deployment.report("ok", f"{stream.name} is still open after {patience:g} s")
        elif stream.why.startswith("closed with 1012"):
            deployment.report("ok", f"{stream.name} was told to reconnect: the gateway restarts, or the stream has grown old")
        elif stream.why.startswith("closed with"):
            deployment.report("wrong", f"{stream.name} was {stream.why}", "cut")
        else:
            quiet = stream.ended - stream.heard
            deployment.report("wrong", f"{stream.name} is cut after {quiet:.1f} s without an event: {_advice(quiet)}", "idle")


async def _has_all(stream: Stream, ids: Collection[str]) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_SECONDS):
            while not set(ids) <= stream.events.keys() and stream.ended is None:
                stream.came.clear()
                await stream.came.wait()
    return set(ids) <= stream.events.keys()


def _advice(quiet: float) -> str:
    half = max(1, int(quiet / 2))
    return f"raise the idle timeout on the way above the heartbeat of 20 s, or set GATEWAY_HEARTBEAT_SECONDS={half}"
