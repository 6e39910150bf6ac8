"""Publishing over HTTP: ``POST /publish``, with one event or up to a thousand."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from gateway import metrics
from gateway.core.event import Malformed, channel_problem, parse_published, show
from gateway.core.grant import NONE, Grant
from gateway.errors import BadRequest, Forbidden, GatewayError, TooLarge, Unprocessable
from gateway.store.log import Publication
from gateway.transports.answers import answer_json, check_method
from gateway.transports.body import MemoryBudget, read_body, reason
from gateway.transports.log_lines import about
from gateway.transports.services import Services
from gateway.transports.trace import parse_traceparent, span
from gateway.transports.writer import Receive, Send

logger = logging.getLogger("gateway.publish")

MAX_BODY_BYTES: Final = 8_388_608
HELD_BYTES: Final = 134_217_728  # of all bodies together, each of which may take half a minute to come
MAX_POSTED: Final = 1_000  # events in one request
MAX_DELIVERIES: Final = 10_000  # the channels of all its events together
MAX_DELIVERED_BYTES: Final = 33_554_432  # of all deliveries: they go to Redis at once, which takes a second, and are held meanwhile
MAX_KEEP: Final = 10_000
MAX_TTL: Final = 30 * 86_400
MAX_TEXT_BYTES: Final = 512


class Posted(msgspec.Struct, forbid_unknown_fields=True):
    """One event, for one channel or several, as a backend posts it."""

    channel: str | list[str]
    type: str = "message"
    data: msgspec.Raw = msgspec.Raw(b"null")
    final: bool = False
    key: str | None = None
    # Whole numbers, as in openapi.json, and to JSON Schema 100.0 is one too: some languages write it so.
    keep: int | float | None = None
    ttl: int | float | None = None
    collapse: str | None = None
    live: bool = False

    @property
    def channels(self) -> list[str]:
        return [self.channel] if isinstance(self.channel, str) else list(dict.fromkeys(self.channel))

    def json(self) -> bytes:
        """The event as it goes to Redis."""
        fields: dict[str, object] = {"type": self.type, "data": self.data}
        if self.final:
            fields["final"] = True
        return msgspec.json.encode(fields)


class Checked(NamedTuple):
    """A posted event that may be published, and its JSON as it goes to Redis."""

    posted: Posted
    json: bytes


_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])
_posted: Final = msgspec.json.Decoder(Posted)

T = TypeVar("T")
Result = dict[str, object]
"""What is answered for an event that was published: its ids, by channel."""


def _decode(decoder: msgspec.json.Decoder[T], json: bytes | msgspec.Raw) -> T:
    """Decode the body, or one element of its array.

    Raises:
        BadRequest: if it is not JSON.
        Unprocessable: if it is nested too deeply, or has not the form that the decoder expects.
    """
    try:
        return decoder.decode(json)
    except msgspec.ValidationError as error:
        raise Unprocessable(reason(error), quoted=show(bytes(json).decode(errors="replace"))) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Unprocessable("the body is nested too deeply, 256 levels are allowed") from None


def _parse_posted(json: bytes | msgspec.Raw) -> Posted | GatewayError:
    """An event; one that is refused is its error."""
    try:
        return _decode(_posted, json)
    except GatewayError as error:
        return error


def _parse_array(body: bytes) -> list[Posted | GatewayError]:
    """The events of an array."""
    raws = _decode(_raws, body)
    if len(raws) > MAX_POSTED:
        raise Unprocessable(f"{len(raws)} events: at most {MAX_POSTED} are allowed in one request")
    return [_parse_posted(raw) for raw in raws]


def _check(posted: Posted, grant: Grant, max_event_bytes: int) -> Checked:
    """Check an event.

    Raises:
        Unprocessable, TooLarge, Forbidden: naming what is wrong.
    """
    if not posted.channels:
        raise Unprocessable("channel: at least one name is expected")
    for name in posted.channels:
        if (problem := channel_problem(name)) is not None:
            raise Unprocessable(problem)
        if not grant.may_publish(name):
            raise Forbidden(f"channel {show(name)}: the token does not allow publishing there", channel=name)
    if posted.live and any(option is not None for option in (posted.key, posted.keep, posted.ttl, posted.collapse)):
        raise Unprocessable("live: such an event is not recorded; key, keep, ttl and collapse are for one that is")
    for field, value, most in (("keep", posted.keep, MAX_KEEP), ("ttl", posted.ttl, MAX_TTL)):
        if value is not None and not (1 <= value <= most and value == int(value)):
            raise Unprocessable(f"{field} {value}: a whole number from 1 to {most} is expected")
    for field, text in (("key", posted.key), ("collapse", posted.collapse)):
        if text is not None and not 1 <= len(text.encode()) <= MAX_TEXT_BYTES:
            raise Unprocessable(f"{field} {show(text, 40)}: 1 to {MAX_TEXT_BYTES} bytes are expected")
    json = posted.json()
    try:
        parse_published(json, max_event_bytes)
    except Malformed as error:
        too_large = len(json) > max_event_bytes
        raise (TooLarge if too_large else Unprocessable)(f"the event is refused: {error}") from None
    return Checked(posted, json)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _log(scope: Mapping[str, Any], grant: Grant, results: Sequence[Result | GatewayError]) -> None:
    refused = _refused(results)
    level = logging.INFO if refused else logging.DEBUG
    if logger.isEnabledFor(level):
        client = scope.get("client")
        extra = about(subject=grant.subject, address=client[0] if client else "", traceparent=parse_traceparent(scope["headers"]))
        logger.log(level, "%d events published, %d refused", len(results) - refused, refused, extra=extra)


def _refused(results: Sequence[Result | GatewayError]) -> int:
    return sum(isinstance(result, GatewayError) for result in results)


class PublishEndpoint:
    """Takes events over HTTP."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._budget = MemoryBudget(HELD_BYTES)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "POST")
        grant = await self._services.gate.authenticate(scope)
        if grant.publish == NONE:
            raise Forbidden("the token does not allow publishing on any channel")
        with self._budget.request() as take:
            body = await read_body(scope, receive, MAX_BODY_BYTES, take)
            self._services.recheck(grant)
            await self._answer(body, grant, scope, send)

    async def _answer(self, body: bytes, grant: Grant, scope: Mapping[str, Any], send: Send) -> None:
        if body.lstrip()[:1] == b"[":
            results = await self._publish(_parse_array(body), grant, scope)
            _log(scope, grant, results)
            await answer_json(send, [r.problem() if isinstance(r, GatewayError) else r for r in results])
            return
        [result] = await self._publish([_parse_posted(body)], grant, scope)
        if isinstance(result, GatewayError):
            raise result  # which is logged
        _log(scope, grant, [result])
        await answer_json(send, result)

    async def _publish(
        self, posted: Sequence[Posted | GatewayError], grant: Grant, scope: Mapping[str, Any]
    ) -> list[Result | GatewayError]:
        """Publish the events in their order.

        Returns:
            for each of them its ids, or why it was refused

        Raises:
            GatewayError: if all of them are refused together.
        """
        with span("publish", parse_traceparent(scope["headers"])) as attributes:
            try:
                results = await self._record(self._check_all(posted, grant))
            except GatewayError:
                metrics.PUBLISHED["refused"].value += len(posted)
                raise
            attributes |= {"notify.events": len(results), "notify.refused": _refused(results)}
        return results

    def _check_all(self, posted: Sequence[Posted | GatewayError], grant: Grant) -> list[Checked | GatewayError]:
        """Check events one by one, and all together. One that is refused becomes its error.

        Raises:
            Unprocessable, TooLarge: if all of them together are over a limit.
        """
        if sum(len(one.channels) for one in posted if isinstance(one, Posted)) > MAX_DELIVERIES:
            raise Unprocessable(f"more than {MAX_DELIVERIES} channels in all: split the request")
        checked: list[Checked | GatewayError] = []
        for one in posted:
            try:
                checked.append(one if isinstance(one, GatewayError) else _check(one, grant, self._services.max_event_bytes))
            except GatewayError as error:
                checked.append(error)
        size = sum(len(one.json) * len(one.posted.channels) for one in checked if isinstance(one, Checked))
        if size > MAX_DELIVERED_BYTES:
            raise TooLarge(f"{size} bytes of events, one for each channel: at most {MAX_DELIVERED_BYTES} are allowed, split the request")
        return checked

    async def _record(self, checked: Sequence[Checked | GatewayError]) -> list[Result | GatewayError]:
        """Record the events, or announce those that are live-only, all in one order: a page may not see the end before what led to it."""
        publications = [
            Publication(name, json, posted.key, _whole(posted.keep), _whole(posted.ttl), posted.collapse, posted.live)
            for posted, json in (one for one in checked if isinstance(one, Checked))
            for name in posted.channels
        ]
        answers = iter(await self._services.feed.log.append(publications) if publications else [])
        results: list[Result | GatewayError] = []
        for one in checked:
            result: Result | GatewayError
            if isinstance(one, GatewayError):
                outcome, result = "refused", one
            else:
                ids = {name: next(answers) for name in one.posted.channels}
                refused = next((answer for answer in ids.values() if isinstance(answer, GatewayError)), None)
                accepted = "live_only" if one.posted.live else "recorded"
                outcome, result = accepted if refused is None else "refused", refused or {"ids": ids}
            metrics.PUBLISHED[outcome].value += 1
            results.append(result)
        return results
