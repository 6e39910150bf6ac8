"""Fetch: requests one configured address over HTTP, within limits of time and size, and without following redirects."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx

from gateway.core.event import show

ANSWER_SECONDS: Final = 3.0  # for a request and its whole answer
MAX_ANSWER_BYTES: Final = 262_144


class NoAnswer(Exception):
    """There was no usable answer. The text says why, and is safe to log."""


class BadAnswer(NoAnswer):
    """There was an answer, but it cannot be used: at least the other side is there."""


class CannotSend(Exception):
    """The request would not be valid HTTP, which is the caller's fault and not the other side's."""


def http_client(connections: int) -> httpx.AsyncClient:
    """An HTTP client that does not follow redirects."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits, follow_redirects=False)


async def fetch(
    client: httpx.AsyncClient, method: str, url: str, *, headers: Sequence[tuple[bytes, bytes]] = (), content: bytes | None = None
) -> tuple[int, bytes]:
    """Send a request.

    Returns:
        the status and the body of the answer

    Raises:
        NoAnswer: if none came in time.
        BadAnswer: if it is too long, or compressed.
        CannotSend: if a header of the request is invalid.
    """
    body = bytearray()
    try:
        plain = [*headers, (b"accept-encoding", b"identity")]  # a compressed body could be a thousand times as long as it seems
        async with asyncio.timeout(ANSWER_SECONDS), client.stream(method, url, headers=plain, content=content) as response:
            if (coding := response.headers.get("content-encoding", "identity")) != "identity":
                raise BadAnswer(f"content-encoding {show(coding)}: none was asked for")
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise BadAnswer(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, bytes(body)
    except TimeoutError:
        raise NoAnswer(f"no answer in {ANSWER_SECONDS:g} s") from None
    except httpx.LocalProtocolError:
        raise CannotSend from None
    except httpx.ConnectError as error:  # such as for a name or a certificate; nothing was sent yet that its text could quote
        raise NoAnswer(f"ConnectError: {error}") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # The error's text may quote what was sent, so only its type is told.
        raise NoAnswer(type(error).__name__) from None
