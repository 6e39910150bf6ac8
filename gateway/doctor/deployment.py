"""Deployment: the deployment that is examined, as it is reached from here, and where findings about it are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from gateway.core.event import show
from gateway.doctor.finding import Finding, Kind
from gateway.doctor.streams import OPEN_SECONDS, make_client


class ExaminationOver(Exception):
    """Further checks are pointless."""


class Deployment:
    """One deployment.

    Args:
        url: where browsers find it, with its path if it has one
        tell: called with each finding
        token: for the gateway; ``None`` if it needs none
        channel: to follow and to publish on
    """

    def __init__(self, url: str, tell: Callable[[Finding], None], *, token: str | None, channel: str) -> None:
        self.base = url.rstrip("/")
        self.token = token
        self.channel = channel
        self.headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.client = make_client(url, OPEN_SECONDS)
        self._tell = tell

    def report(self, kind: Kind, text: str, name: str = "") -> None:
        """Report a finding; ``name`` is that of its remedy."""
        self._tell(Finding(kind, text, name))

    async def get(self, path: str, *, base: str | None = None, **headers: str) -> httpx.Response:
        """Request a path of the gateway, at the deployment's address or at another ``base``."""
        return await self.client.get(f"{self.base if base is None else base}{path}", headers=headers)

    async def publish(self, **event: Any) -> httpx.Response:
        """Publish an event on the channel."""
        return await self.client.post(f"{self.base}/publish", json={"channel": self.channel, **event}, headers=self.headers)


def problem_of(answer: httpx.Response) -> str:
    """The detail of a problem, or else the phrase of the answer's status."""
    try:
        return show(answer.json()["detail"], 200)
    except (ValueError, KeyError, TypeError):
        return show(answer.reason_phrase, 200)


def milliseconds(seconds: float | None) -> str:
    """A time as text."""
    return "no time" if seconds is None else f"{seconds * 1e3:.0f} ms"
