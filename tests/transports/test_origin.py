"""Origins: how they are compared, and which hosts a gateway without authentication takes for its own machine."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Forbidden
from gateway.transports.origin import Origins


def scope(**fields: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example", True),
        ("http://localhost:3000", True),
        ("https://app.example:443", False),
        ("https://app.example/", False),
        ("https://app.example.evil.example", False),
        ("https://sub.app.example", False),
        ("http://app.example", False),
        ("http://localhost:3001", False),
        ("null", False),
        ("", False),
        ("*", False),
    ],
)
def test_an_origin_is_compared_as_a_whole(origin: str, allowed: bool) -> None:
    origins = Origins(("https://app.example", "http://localhost:3000"))

    assert origins.allow(origin) is allowed
    if allowed:
        origins.check_ambient(scope(origin=origin))
    else:
        with pytest.raises(Forbidden, match="GATEWAY_ALLOWED_ORIGINS"):
            origins.check_ambient(scope(origin=origin))


def test_two_origin_headers_count_as_none() -> None:
    both = {"headers": [(b"origin", b"https://app.example"), (b"origin", b"https://evil.example")]}

    with pytest.raises(Forbidden):
        Origins(("https://app.example",)).check_ambient(both)


def test_a_page_of_the_gateways_own_is_known_by_what_no_page_can_set() -> None:
    Origins(()).check_ambient(scope(sec_fetch_site="same-origin"))
    for other in ("same-site", "cross-site", "none"):
        with pytest.raises(Forbidden, match="absent"):
            Origins(()).check_ambient(scope(sec_fetch_site=other))
    with pytest.raises(Forbidden):
        Origins(()).check_ambient(scope(sec_fetch_site="same-origin", origin="https://evil.example"))


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8000",
        "127.0.0.1",
        "[::1]:8000",
        "192.0.2.7:80",
        "gateway",
        "testserver",
        "a.LocalHost:1",
        "App.Example",
        "[::ffff:192.0.2.7]",
    ],
)
def test_host_names_that_only_this_machine_can_have_are_served(host: str) -> None:
    Origins(("https://app.example",), local=True).check_local(scope(host=host))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "a b", "localhost:x"])
def test_host_names_that_may_be_rebound_are_refused(host: str) -> None:
    with pytest.raises(Forbidden, match="host"):
        Origins((), local=True).check_local(scope(host=host))


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://a.localhost", "https://127.0.0.1", "http://[::1]:3000", "http://gateway:8000"]
)
def test_pages_of_this_machine_are_served(origin: str) -> None:
    Origins((), local=True).check_local(scope(host="gateway:8000", origin=origin))


@pytest.mark.parametrize("origin", ["http://localhost/", "http://127.0.0.1:3000/", "http://gateway:8000/"])
def test_programs_of_this_machine_may_end_their_origin_with_a_slash(origin: str) -> None:
    Origins((), local=True).check_local(scope(host="gateway:8000", origin=origin))


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "evil://localhost",
        "https://evil.example/",
        "http://localhost//",
        "http://localhost/a",
        "/",
        "http://localhost.evil.example",
        "file://",
        "http://127.0.0.1.evil.example",
        "http://[",
        "a",
    ],
)
@pytest.mark.parametrize("host", [{"host": "localhost:8000"}, {}], ids=["host", "none"])
def test_pages_from_elsewhere_are_refused(origin: str, host: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match="origin"):
        Origins((), local=True).check_local(scope(**host, origin=origin))
