from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError, HeadTooLarge, UpgradeRequired, UriTooLong
from gateway.server.heads import MAX_HEAD_BYTES, MAX_HEADERS, MAX_URI_BYTES, PLAIN, Head, check_head, other_protocol, without_upgrade
from gateway.server.responses import problem_response

HOST = (b"host", b"a")
UPGRADE = [
    HOST,
    (b"connection", b"keep-alive, Upgrade"),
    (b"upgrade", b"WebSocket"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
]


def test_a_head_says_whether_it_upgrades_and_whether_a_body_follows() -> None:
    assert check_head(b"GET", "1.1", b"/", [HOST]) == PLAIN
    assert check_head(b"GET", "1.1", b"/ws", UPGRADE, upgrading=True) == Head(key=b"dGhlIHNhbXBsZSBub25jZQ==")
    assert check_head(b"POST", "1.1", b"/", [HOST, (b"content-length", b"5")]).has_body
    assert check_head(b"POST", "1.1", b"/", [HOST, (b"transfer-encoding", b"Chunked")]).has_body
    assert not check_head(b"POST", "1.1", b"/", [HOST, (b"content-length", b"0")]).has_body


def test_a_head_says_whether_the_client_expects_100_continue() -> None:
    waiting, length = (b"expect", b"100-Continue"), (b"content-length", b"5")

    assert check_head(b"POST", "1.1", b"/", [HOST, length, waiting]).expects_continue
    assert not check_head(b"POST", "1.1", b"/", [HOST, length]).expects_continue
    assert not check_head(b"GET", "1.1", b"/", [HOST, waiting]).expects_continue
    assert not check_head(b"POST", "1.0", b"/", [HOST, length, waiting]).expects_continue


@pytest.mark.parametrize("offers", [[b"websocket"], [b"h2c, WebSocket"], [b"websocket", b"h2c"], [b"h2c", b"websocket"]])
def test_websocket_is_chosen_among_the_offered_protocols(offers: list[bytes]) -> None:
    headers = [field for field in UPGRADE if field[0] != b"upgrade"] + [(b"upgrade", offer) for offer in offers]

    assert check_head(b"GET", "1.1", b"/ws", headers, upgrading=True).key


def test_an_upgrade_header_that_is_ignored_leaves_an_ordinary_request() -> None:
    offers = [HOST, (b"connection", b"Upgrade"), (b"upgrade", b"h2c")]

    assert check_head(b"POST", "1.1", b"/", [*offers, (b"content-length", b"5")], upgrading=True) == Head(offers_other=True, has_body=True)
    assert check_head(b"GET", "1.1", b"/ws", UPGRADE) == PLAIN
    assert without_upgrade(b"POST", "1.1", b"/a?b", offers) == b"POST /a?b HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\n\r\n"


@pytest.mark.parametrize("coding", [b"gzip, chunked", b",chunked", b""])
def test_a_transfer_coding_that_is_not_decoded_is_refused(coding: bytes) -> None:
    with pytest.raises(BadRequest, match="transfer-encoding"):
        check_head(b"POST", "1.1", b"/", [HOST, (b"transfer-encoding", coding)])


def test_a_tunnel_is_refused() -> None:
    with pytest.raises(BadRequest, match="CONNECT"):
        check_head(b"CONNECT", "1.1", b"a:80", [HOST], upgrading=True)


@pytest.mark.parametrize(
    ("uri", "headers", "error"),
    [
        (b"/" * MAX_URI_BYTES, [HOST], None),
        (b"/" * (MAX_URI_BYTES + 1), [HOST], UriTooLong),
        (b"/", [HOST, *[(b"a", b"b")] * (MAX_HEADERS - 1)], None),
        (b"/", [HOST, *[(b"a", b"b")] * MAX_HEADERS], HeadTooLarge),
        (b"/", [HOST, (b"a", b"b" * (MAX_HEAD_BYTES - 7))], None),
        (b"/", [HOST, (b"a", b"b" * (MAX_HEAD_BYTES - 6))], HeadTooLarge),
    ],
    ids=["address", "address + 1", "headers", "headers + 1", "head", "head + 1"],
)
def test_the_limits_are_exact(uri: bytes, headers: list[tuple[bytes, bytes]], error: type[GatewayError] | None) -> None:
    if error is None:
        assert check_head(b"GET", "1.1", uri, headers) == PLAIN
    else:
        with pytest.raises(error):
            check_head(b"GET", "1.1", uri, headers)


@pytest.mark.parametrize("host", [b"a", b"a.b-c_d.example", b"a:", b"a:0", b"a:65535", b"127.0.0.1:8000", b"[::1]", b"[::ffff:1.2.3.4]:80"])
def test_a_good_host_is_taken(host: bytes) -> None:
    assert check_head(b"GET", "1.1", b"/", [(b"host", host)]) == PLAIN


@pytest.mark.parametrize(
    "host", [b"", b"/", b"a/b", b"a?b", b"a#b", b"a@b", b"a b", b" a", b"a:b", b"a:123456", b"[a", b"a]", b"a,b", b"\xff", b"a\\b"]
)
def test_a_bad_host_is_refused(host: bytes) -> None:
    with pytest.raises(BadRequest, match="host"):
        check_head(b"GET", "1.1", b"/", [(b"host", host)])


def test_an_older_websocket_version_is_answered_with_the_supported_one() -> None:
    with pytest.raises(UpgradeRequired) as caught:
        check_head(b"GET", "1.1", b"/ws", [*UPGRADE[:-1], (b"sec-websocket-version", b"8")], upgrading=True)

    assert {b"connection: close, upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"} < set(
        problem_response(caught.value).split(b"\r\n")
    )


@pytest.mark.parametrize("uri", [b"http:///path?token=secret", b"http://a:99999/path?token=secret", b"/path?token=secret#", b"path"])
def test_an_error_names_the_path_and_not_the_query(uri: bytes) -> None:
    with pytest.raises(BadRequest, match="address") as caught:
        check_head(b"GET", "1.1", uri, [HOST])

    assert "path" in caught.value.detail
    assert "secret" not in caught.value.detail


NAMES = [b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding", b"origin", *(name for name, _ in UPGRADE)]
VALUES = st.one_of(st.binary(max_size=30), st.sampled_from([value for _, value in UPGRADE]))


@given(
    st.sampled_from([b"GET", b"POST", b"HEAD"]),
    st.sampled_from(["1.0", "1.1", "2.0", "0.9"]),
    st.binary(max_size=50),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=10),
    st.booleans(),
)
def test_any_head_is_accepted_or_refused_with_a_valid_response(
    method: bytes, version: str, uri: bytes, headers: list[tuple[bytes, bytes]], upgrading: bool
) -> None:
    refused, head = None, PLAIN
    try:
        head = check_head(method, version, uri, headers, upgrading=upgrading)
    except GatewayError as error:
        refused = error

    assert not (head.key and head.has_body)
    assert refused is None or status_of(problem_response(refused)) == refused.status
    assert refused is not None or version in ("1.0", "1.1")


class Response:
    """The callbacks of a client's parser."""

    complete = False

    def on_message_complete(self) -> None:
        self.complete = True


def status_of(data: bytes) -> int:
    response = Response()
    parser = httptools.HttpResponseParser(response)
    parser.feed_data(data)
    assert response.complete
    status: int = parser.get_status_code()
    return status


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "the PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "the PROXY protocol"),
        (b"\x16\x03\x01\x02\0", "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"PROPFIND / HTTP/1.1\r\n", None),
    ],
)
def test_what_a_proxy_speaks_instead_of_http_1_is_named(data: bytes, name: str | None) -> None:
    assert other_protocol(data) == name
