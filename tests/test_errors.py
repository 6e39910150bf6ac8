"""Errors: one place for statuses and close codes."""

from __future__ import annotations

from gateway import errors
from gateway.errors import Forbidden, GatewayError, Unavailable


def every(kind: type[GatewayError]) -> list[type[GatewayError]]:
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in every(sub))]


def test_a_problem_has_the_members_of_rfc_9457() -> None:
    error = Forbidden("channel 'jobs:7': the token does not allow it", channel="jobs:7")

    assert error.problem() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "channel 'jobs:7': the token does not allow it",
        "channel": "jobs:7",
    }


def test_a_quoted_value_is_shown_to_its_sender_only() -> None:
    error = Forbidden("no", quoted="'a'")

    assert (error.problem()["detail"], error.detail, str(error)) == ("no: 'a'", "no", "no")


def test_a_temporary_error_says_when_to_retry() -> None:
    assert Unavailable("Redis is away").retry_after == 1
    assert Forbidden("no").retry_after is None


def test_the_range_of_a_close_code_says_whether_to_retry() -> None:
    for kind in every(errors.GatewayError):
        is_final = 4400 <= kind.close_code <= 4403
        assert is_final == (kind.status in {400, 401, 403, 404, 405, 408, 414, 422, 426, 431}), kind
