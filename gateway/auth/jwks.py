"""JWKS: keys from one configured address (RFC 7517), fetched in the background.

The address comes from the settings, never from a token. A token with an unknown ``kid`` causes another fetch, but only once in a while.
While the address does not answer, the keys that were fetched last stay valid for a day.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from gateway.auth.fetch import ANSWER_SECONDS, NoAnswer, fetch, http_client
from gateway.auth.keys import Key, public_key
from gateway.auth.signatures import SIGNATURES
from gateway.errors import Unauthorized, Unavailable

logger = logging.getLogger("gateway.auth")

REFRESH_SECONDS: Final = 300.0
ASK_SECONDS: Final = 10.0  # at least, between two fetches that are caused by unknown keys
KEEP_SECONDS: Final = 86_400.0  # for which keys stay valid without another successful fetch
BACKOFF: Final = (1.0, 60.0)
MAX_KEYS: Final = 100

Known = dict[tuple[str, str | None], Key]
"""Keys by their algorithm and ``kid``."""


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


_decode: Final = msgspec.json.Decoder(_Set)


def parse_key_set(data: bytes) -> Known:
    """Parse a key set, and keep the keys that tokens can be checked with.

    If there is only one key of an algorithm, it is found under the ``kid`` of ``None`` as well. Other keys than public ones for our
    algorithms are left out, above all symmetric ones (``oct``): a secret that is published is none.

    Raises:
        ValueError: if it is not a key set, or no key is left.
    """
    try:
        entries = _decode.decode(data).keys[:MAX_KEYS]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError('a JSON object with "keys" is expected') from None
    known: Known = {}
    by_algorithm: dict[str, list[Key]] = {}
    for entry in entries:
        kid = entry.get("kid")
        if (key := _read_key(entry)) is None or not isinstance(kid, str | None):
            continue
        known[key.algorithm, kid] = key
        by_algorithm.setdefault(key.algorithm, []).append(key)
    for algorithm, keys in by_algorithm.items():
        if len(keys) == 1:
            known[algorithm, None] = keys[0]
        else:
            known.pop((algorithm, None), None)
    if not known:
        raise ValueError("no key in it is one for RS256, ES256 or EdDSA")
    return known


def _read_key(entry: dict[str, Any]) -> Key | None:
    if entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return None
    try:
        key = public_key(jwt.PyJWK(entry).key)
    except (jwt.PyJWTError, UnsupportedAlgorithm, NotImplementedError, ValueError, TypeError, AttributeError, KeyError):
        return None  # also for a kind of key that this OpenSSL does not know, and for the algorithm "none"
    return key if entry.get("alg", key.algorithm) == key.algorithm else None


class Jwks:
    """The keys at an address (see ``Keys``). ``run`` keeps them up to date.

    Attributes:
        generation: see ``Keys``
        fetches: how often the address was asked
    """

    def __init__(self, url: str) -> None:
        self.generation = 0
        self.fetches = 0
        self._url = url
        self._known: Known = {}
        self._body = b""
        self._fetched_at = -ASK_SECONDS
        self._good_until = 0.0
        self._asked = asyncio.Event()  # set to ask for a fetch
        self._turn = asyncio.Event()  # set after the next fetch; a new one for each

    async def find(self, token: str) -> Key:
        try:
            head = SIGNATURES.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized("the token is not a JSON Web Token") from None
        algorithm, kid = head.get("alg"), head.get("kid")
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            raise Unauthorized("the token's header: alg and kid are expected to be texts")
        for again in (True, False):
            self._drop_old()
            key = self._known.get((algorithm, kid))
            if key is not None:
                return key
            if not again or not await self._ask():
                break
        if not self._known:
            raise Unavailable("the keys for tokens are not there: GATEWAY_JWKS_URL does not answer")
        raise Unauthorized("the token's key or algorithm is not known")

    def _drop_old(self) -> None:
        if self._known and time.monotonic() > self._good_until:
            self._known = {}
            self.generation += 1  # so that tokens that were checked with these keys are not accepted any more

    async def _ask(self) -> bool:
        """Wait for another fetch, if the last one was long enough ago.

        Returns:
            whether there was one
        """
        if self._known and time.monotonic() - self._fetched_at < ASK_SECONDS:
            return False
        self._asked.set()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._turn.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Fetch the keys now, from time to time, and when asked to, until cancelled."""
        wait = BACKOFF[0]
        async with http_client(1) as client:
            while True:
                self._fetched_at = time.monotonic()
                try:
                    await self._fetch(client)
                    wait = BACKOFF[0]
                except (NoAnswer, ValueError) as error:
                    logger.warning("GATEWAY_JWKS_URL: the keys last seen hold on: %s", error)
                    wait = min(wait * 2, BACKOFF[1])
                self._drop_old()
                self._asked.clear()  # those who asked meanwhile get this answer
                self._turn.set()
                self._turn = asyncio.Event()
                await self._pause(wait)

    async def _pause(self, wait: float) -> None:
        if wait > BACKOFF[0]:
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            return
        try:
            async with asyncio.timeout(REFRESH_SECONDS * random.uniform(0.8, 1)):
                await self._asked.wait()
                await asyncio.sleep(max(0.0, self._fetched_at + ASK_SECONDS - time.monotonic()))
        except TimeoutError:
            pass

    async def _fetch(self, client: Any) -> None:
        self.fetches += 1
        status, body = await fetch(client, "GET", self._url, headers=[(b"accept", b"application/json")])
        if status != 200:
            raise NoAnswer(f"status {status}, 200 is expected")
        known = parse_key_set(body)
        if body != self._body:
            self._body = body
            self.generation += 1
        self._known = known
        self._good_until = time.monotonic() + KEEP_SECONDS
