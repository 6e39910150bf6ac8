"""Site: the deployment that is examined, as somebody reaches it from here, and what was found of it so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from gateway.core.event import show
from gateway.doctor.finding import Finding, Kind
from gateway.doctor.streams import OPEN_SECONDS, make_client


class Over(Exception):
    """There is no use in looking further."""


class Site:
    """One deployment.

    Args:
        url: where browsers find it, with its path if it has one
        tell: called with each finding
        token: for the gateway; ``None`` where it asks for none
        channel: to follow and to publish on
    """

    def __init__(self, url: str, tell: Callable[[Finding], None], *, token: str | None, channel: str) -> None:
        self.base = url.rstrip("/")
        self.token = token
        self.channel = channel
        self.headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.client = make_client(url, OPEN_SECONDS)
        self._tell = tell

    def say(self, kind: Kind, text: str, name: str = "") -> None:
        """Tell a finding; the name is that of its remedy."""
        self._tell(Finding(kind, text, name))

    async def get(self, path: str, *, base: str | None = None, **headers: str) -> httpx.Response:
        """Ask for a path of the gateway's, here or where else it may be."""
        return await self.client.get(f"{self.base if base is None else base}{path}", headers=headers)

    async def publish(self, **event: Any) -> httpx.Response:
        """Publish an event on the channel."""
        return await self.client.post(f"{self.base}/publish", json={"channel": self.channel, **event}, headers=self.headers)


def problem_of(answer: httpx.Response) -> str:
    """What a problem says of itself, or how its status is called."""
    try:
        return show(answer.json()["detail"], 200)
    except (ValueError, KeyError, TypeError):
        return show(answer.reason_phrase, 200)


def milliseconds(seconds: float | None) -> str:
    """A time as it is shown."""
    return "no time" if seconds is None else f"{seconds * 1e3:.0f} ms"
