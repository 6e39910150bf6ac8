"""Following: the decisions of a subscriber, without I/O.

It takes the messages and the ends of connections, and decides what the user gets, and with which cursors, when and over which transport
to reconnect. All clients share these rules; clients/vectors has test cases for them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from notify_client.command import check_channel, show
from notify_client.event import Event, Refused

Transport = Literal["ws", "sse"]
Action = Literal["stop", "token", "later", "retry"]
Cursors = dict[str, str | None]

# Seconds. The wait before an attempt is a random time up to a bound, which doubles from FIRST_WAIT to LAST_WAIT with each failure.
FIRST_WAIT: Final = 0.5
LAST_WAIT: Final = 20.0
LATER_WAIT: Final = 4.0  # the smallest bound if the server is overloaded
LONGEST_WAIT: Final = 300.0  # that Retry-After can ask for
LASTING: Final = 10.0  # after which a connection counts as one that has worked

_STOP: Final = frozenset((400, 402, 403, 4400, 4402, 4403))
_TOKEN: Final = frozenset((401, 4401))
_LATER: Final = frozenset((429, 503, 1013))
DONE: Final = 1000
NO_CONTENT: Final = 204


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of a channel are missing before its next event."""

    channel: str


class Ended(Exception):
    """A connection has ended, or could not be made.

    Attributes:
        code: the close code or HTTP status; 0 if there was none
        reason: why
        retry_after: seconds after which to try again; ``None`` if the server did not say
    """

    def __init__(self, code: int, reason: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code or ''} {reason}".strip())
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


def action_after(code: int) -> Action:
    """What to do after a close code or an HTTP status."""
    if code in _STOP:
        return "stop"
    if code in _TOKEN:
        return "token"
    return "later" if code in _LATER else "retry"


def delays(failures: int, *, later: bool = False, retry_after: float | None = None) -> tuple[float, float]:
    """The shortest and the longest wait before the next attempt, in seconds.

    Args:
        failures: how many attempts failed before this one, since the last connection that worked
        later: whether the server is overloaded
        retry_after: the seconds that the server gave; ``None`` if it gave none
    """
    longest = min(LAST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10))
    if retry_after is not None:
        shortest = min(max(retry_after, 0.0), LONGEST_WAIT)
        return shortest, shortest + longest
    return 0.0, max(longest, LATER_WAIT) if later else longest


def address(url: str, transport: Transport) -> str:
    """The URL to connect to.

    Args:
        url: of the gateway
        transport: over which to connect

    Raises:
        ValueError: if the gateway's URL is wrong.
    """
    shown = "url" if "@" in url else f"url {show(url)}"  # a password may stand before an @
    wrong = ValueError(f"{shown}: the gateway's address is expected, such as http://localhost:8000")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise wrong from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise wrong
    if transport == "ws":
        scheme = {"http": "ws", "https": "wss"}[scheme]
    return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/{transport}", "", ""))


def _is_cursor(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20


class Following:
    """The state of one subscription.

    Args:
        channels: names, or a mapping from names to cursors
        since: where to begin on channels without a cursor: ``None``, ``"last"``, ``"now"``, ``"0"`` or an id
        until_final: whether it is over when every channel is
        transport: which one to use; ``"auto"`` finds out which one gets through
        renewable: whether the user can give another token
        dice: returns random numbers from 0 to 1, for the jitter

    Attributes:
        cursors: of each channel; ``None`` until there is one
        transport: of the next connection
        failures: how many attempts have failed since the last connection that worked

    Raises:
        ValueError: if a name, a cursor or an option is wrong.
        TypeError: if a single text is given instead of a list of channels.
    """

    def __init__(
        self,
        channels: Iterable[str] | Mapping[str, str | None],
        *,
        since: str | None = None,
        until_final: bool = False,
        transport: Literal["auto", "ws", "sse"] = "auto",
        renewable: bool = False,
        dice: Callable[[], float] = random.random,
    ) -> None:
        if isinstance(channels, str):
            raise TypeError(f"channels {show(channels)}: a list of names is expected")
        if since not in (None, "last", "now") and not _is_cursor(since):
            raise ValueError(f"since {show(since)}: last, now, 0 or an id is expected")
        if transport not in ("auto", "ws", "sse"):
            raise ValueError(f"transport {show(transport)}: auto, ws or sse is expected")
        self.cursors: Cursors = {}
        self.until_final = until_final
        self.transport: Transport = "sse" if transport == "sse" else "ws"
        self.failures = 0
        self._since = since
        self._over: set[str] = set()  # channels whose final event has come
        self._rewound: set[str] = set()  # channels whose next id may be below the cursor, after a gap
        self._undecided = transport == "auto"  # until a connection was ready: which transport gets through is not known
        self._renewable = renewable
        self._renewed = False  # another token was asked for, and no connection has been ready since
        self._ready_at: float | None = None  # when the present connection was ready; None before that
        self._dice = dice
        for name, cursor in channels.items() if isinstance(channels, Mapping) else dict.fromkeys(channels).items():
            self.follow(name, cursor)

    # What the user asks for

    def follow(self, channel: str, cursor: str | None = None) -> None:
        """Add a channel. One that is followed already keeps its cursor.

        Raises:
            ValueError: if the name or the cursor is wrong.
        """
        check_channel(channel)
        if cursor is not None and not _is_cursor(cursor):
            raise ValueError(f"cursor {show(cursor)} of channel {show(channel)}: an id is expected")
        self.cursors.setdefault(channel, cursor)

    def unfollow(self, channel: str) -> None:
        """Remove a channel."""
        self.cursors.pop(channel, None)
        self._over.discard(channel)
        self._rewound.discard(channel)

    @property
    def is_over(self) -> bool:
        """Whether all channels are over, and the user asked to end then."""
        return self.until_final and bool(self.cursors) and self._over >= self.cursors.keys()

    # What goes to the gateway

    def query(self) -> str:
        """The query string of an SSE request, with the channels and where to begin on each."""
        parts = [f"channel={quote(name, safe='')}" + (f",{begin}" if begin else "") for name, begin in self._begin().items()]
        return "&".join(parts + ["until=final"] * self.until_final)

    def subscribe_command(self, channels: Iterable[str] | None = None) -> str | None:
        """The WebSocket command that subscribes to these channels, or to all; ``None`` if there are none."""
        begin = self._begin()
        wanted = {name: begin[name] for name in (begin if channels is None else channels) if name in begin}
        return json.dumps({"op": "subscribe", "channels": wanted, "ref": 1}) if wanted else None

    def _begin(self) -> Cursors:
        return {name: self._since if cursor is None else cursor for name, cursor in self.cursors.items()}

    # What comes from the gateway

    def receive(self, text: str, now: float) -> Event | Gap | None:
        """Take one message: the text of a WebSocket frame, or the data of an SSE event.

        Returns:
            what the user gets of it; ``None`` if nothing

        Raises:
            Ended: if the message says that the connection ends, or if it cannot be understood.
            Refused: if a channel is refused.
        """
        try:
            message = json.loads(text)
            if "op" not in message:
                return self._event(message)
            return self._notice(message, now)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Ended(0, f"message {show(text)}: {type(error).__name__}: an event or a notice is expected") from None

    def _event(self, message: dict[str, Any]) -> Event | None:
        channel, id = message["channel"], message.get("id")
        if channel not in self.cursors:
            return None  # the event was on its way when the channel was unfollowed
        if id is not None:
            cursor = self.cursors[channel]
            if cursor is not None and int(id) <= int(cursor) and channel not in self._rewound:
                return None
            self._rewound.discard(channel)
            self.cursors[channel] = id
        event = Event(message["type"], message["data"], channel, id, message.get("final", False))
        if event.final:
            self._over.add(channel)
        return event

    def _notice(self, message: dict[str, Any], now: float) -> Gap | None:
        match message["op"]:
            case "gap" if message["channel"] in self.cursors:
                # If Redis has lost its newest data, the next id may be below the cursor, and must not be taken for an old event.
                self._rewound.add(message["channel"])
                return Gap(message["channel"])
            case "ready":
                self._ready(message["channels"], now)
            case "bye":
                raise Ended(int(message["code"]), message.get("reason", ""))
            case "error":
                self._error(message["status"], message.get("detail") or message.get("title", ""))
        return None

    def _ready(self, cursors: Mapping[str, str], now: float) -> None:
        for name in cursors.keys() & self.cursors.keys():
            if int(cursors[name]) >= 0:
                self.cursors[name] = cursors[name]
                self._rewound.discard(name)
        self._undecided = False
        self._renewed = False
        if self._ready_at is None:
            self._ready_at = now

    @staticmethod
    def _error(status: int, reason: str) -> None:
        if action_after(status) == "stop":
            raise Refused(status, reason)
        raise Ended(status, reason)

    # The end of a connection

    def end(self, ended: Ended, now: float) -> float | None:
        """Take the end of a connection, or the failure of an attempt to connect.

        Args:
            ended: how it ended
            now: the event loop's time

        Returns:
            the seconds to wait before the next attempt; ``None`` if the subscription is over

        Raises:
            Refused: if another attempt is of no use.
        """
        ready_at, self._ready_at = self._ready_at, None
        if ready_at is not None and now - ready_at >= LASTING:
            self.failures = 0
        if self.until_final and (ended.code == NO_CONTENT or (ended.code == DONE and ready_at is not None)):
            return None
        action = action_after(ended.code)
        if action == "stop" or (action == "token" and (self._renewed or not self._renewable)):
            raise Refused(ended.code, ended.reason)
        if action == "token":
            self._renewed = True
        elif self._undecided and action != "later":
            self.transport = "sse" if self.transport == "ws" else "ws"
        failures, self.failures = self.failures, self.failures + 1
        if failures == 0 and (action == "token" or self._blocked(ended)):
            return 0.0
        shortest, longest = delays(failures, later=action == "later", retry_after=ended.retry_after)
        return shortest + self._dice() * (longest - shortest)

    def _blocked(self, ended: Ended) -> bool:
        """Whether a proxy on the way has answered instead of the gateway, so that the other transport should be tried at once."""
        return self._undecided and self.transport == "sse" and 100 < ended.code < 600
