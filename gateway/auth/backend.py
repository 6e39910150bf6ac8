"""Backend: asks the team's own backend what a caller may do, for teams that have sessions instead of tokens.

    POST <GATEWAY_AUTHORIZE_URL>          with the caller's Cookie and Authorization
    {"channels":["jobs:42"]}
    -> 200 {"sub":"ann","subscribe":["jobs:42"],"publish":[],"expires_in":300}, 401 or 403

Any other answer, or none, never counts as a yes: the caller gets 503 and comes back later. An unexpected answer may be this caller's
fault, for instance because its cookie is too long for the backend, so it does not keep others from asking. Failures do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Final

import httpx
import msgspec

from gateway.auth.fetch import ANSWER_SECONDS, BadAnswer, CannotSend, NoAnswer, fetch, http_client
from gateway.core.claims import check_claims
from gateway.core.grant import Grant
from gateway.errors import BadRequest, Forbidden, GatewayError, Unauthorized, Unavailable

logger = logging.getLogger("gateway.auth")

IN_FLIGHT: Final = 32
WAITING: Final = 1_000  # callers that may wait until fewer than ``IN_FLIGHT`` requests are under way
FAILURES: Final = 5  # in a row, after which the backend is not asked for a while
PAUSE: Final = (1.0, 30.0)  # seconds: the first and the longest
OVERLOADED: Final = (408, 429, 502, 503, 504)  # statuses that count as failures, because they do not depend on the caller
MAX_EXPIRES_IN: Final = 30 * 86_400


class _Answer(msgspec.Struct):
    sub: str
    subscribe: list[str]
    expires_in: float
    publish: list[str] = []


_decode: Final = msgspec.json.Decoder(_Answer)


class Breaker:
    """A circuit breaker: after some failures the backend is not asked for a while, then one caller tries. The pause doubles each time."""

    def __init__(self) -> None:
        self._failures = 0
        self._paused_until = 0.0
        self._trying = False

    def check(self) -> None:
        """Check whether the backend may be asked now.

        Raises:
            Unavailable: if not.
        """
        now = time.monotonic()
        if self._failures >= FAILURES:
            if now < self._paused_until:
                raise _unavailable()
            self._paused_until = now + ANSWER_SECONDS  # this caller tries, and the others wait for the outcome
            self._trying = True

    def succeeded(self) -> None:
        """The backend has answered, whatever it said."""
        self._failures = 0
        self._trying = False

    def not_asked(self) -> None:
        """The backend was not asked after all, so the next caller may try."""
        if self._trying:
            self._trying = False
            self._paused_until = 0.0

    def failed(self, why: str) -> None:
        """The backend has not answered. The failures of calls that began before the pause do not count again."""
        if self._trying or self._failures < FAILURES:
            self._trying = False
            self._failures += 1
            logger.warning("GATEWAY_AUTHORIZE_URL: %s", why)
            if self._failures >= FAILURES:
                pause = min(PAUSE[0] * 2 ** min(self._failures - FAILURES, 10), PAUSE[1])
                self._paused_until = time.monotonic() + pause


def _unavailable(why: str = "does not answer") -> Unavailable:
    return Unavailable(f"whether this is allowed cannot be known now: GATEWAY_AUTHORIZE_URL {why}", retry_after=2)


class Backend:
    """The backend at an address. It can be asked while ``run`` is running."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: httpx.AsyncClient | None = None
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._callers = 0
        self._breaker = Breaker()

    async def run(self) -> None:
        """Keep connections to the backend, until cancelled."""
        async with http_client(IN_FLIGHT) as client:
            self._client = client
            try:
                await asyncio.Event().wait()
            finally:
                self._client = None

    async def ask(self, cookie: bytes | None, authorization: bytes | None, channels: Iterable[str]) -> Grant:
        """Ask what a caller may do.

        Args:
            cookie: the caller's Cookie header; ``None`` for none
            authorization: the caller's Authorization header; ``None`` for none
            channels: that the caller wants to follow

        Raises:
            Unauthorized, Forbidden: if the backend says so.
            BadRequest: if a header cannot be passed on.
            Unavailable: if the backend gives no usable answer within 3 s.
        """
        self._breaker.check()
        if self._client is None or self._callers >= IN_FLIGHT + WAITING:
            raise _unavailable()
        headers = [(b"content-type", b"application/json"), (b"accept", b"application/json")]
        headers += [(name, value) for name, value in ((b"cookie", cookie), (b"authorization", authorization)) if value is not None]
        body = msgspec.json.encode({"channels": list(channels)})
        self._callers += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._places:
                status, answer = await fetch(self._client, "POST", self._url, headers=headers, content=body)
                grant = _read(status, answer)
        except BadAnswer as error:
            logger.warning("GATEWAY_AUTHORIZE_URL: %s", error)
            self._breaker.succeeded()
            raise _unavailable("says neither yes nor no") from None
        except (NoAnswer, TimeoutError) as error:
            self._breaker.failed(str(error) or f"no answer in {ANSWER_SECONDS:g} s")
            raise _unavailable() from None
        except CannotSend:
            self._breaker.not_asked()
            raise BadRequest("the Cookie or Authorization header cannot be passed on") from None
        except GatewayError:
            self._breaker.succeeded()
            raise
        finally:
            self._callers -= 1
        self._breaker.succeeded()
        return grant


def _read(status: int, body: bytes) -> Grant:
    if status == 401:
        raise Unauthorized("the backend does not know who this is", has_token=False)
    if status == 403:
        raise Forbidden("the backend does not allow it")
    if status != 200:
        raise (NoAnswer if status in OVERLOADED else BadAnswer)(f"status {status}; 200, 401 or 403 is expected")
    try:
        answer = _decode.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("an answer that is not as expected: sub, subscribe, expires_in and perhaps publish") from None
    if not 0 < answer.expires_in <= MAX_EXPIRES_IN:
        raise BadAnswer(f"expires_in {answer.expires_in:g}: seconds up to {MAX_EXPIRES_IN} are expected")
    now = time.time()
    claims = {"sub": answer.sub, "subscribe": answer.subscribe, "publish": answer.publish, "exp": now + answer.expires_in, "iat": now}
    try:
        return Grant.from_claims(check_claims(claims))
    except Unauthorized as error:
        raise BadAnswer(error.detail) from None
