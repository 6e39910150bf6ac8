"""What a subscriber decides: the test vectors that all clients share, and what only the Python client does."""

import json
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from notify_client.event import Event, Refused
from notify_client.following import LASTING, Ended, Following, Gap, action_after, address, delays

VECTORS = Path(__file__).parents[2] / "vectors"
READY = '{"op":"ready","channels":{"jobs:1":"5"}}'


def cases(name):
    return [
        pytest.param(case, id=str(case.get("name", number)))
        for number, case in enumerate(json.loads((VECTORS / name).read_text())["cases"])
    ]


def event(id, channel="jobs:1", **more):
    return json.dumps({"type": "progress", "data": 1, "channel": channel, "id": id} | more)


@pytest.mark.parametrize("case", cases("endings.json"))
def test_each_close_code_and_status_has_its_action(case):
    if case["action"] != "ok":
        assert action_after(case["code"]) == case["action"]


@pytest.mark.parametrize("case", cases("delays.json"))
def test_the_wait_grows_and_is_random(case):
    shortest, longest = delays(case["failures"], later=case.get("later", False), retry_after=case.get("retry_after"))

    assert (shortest, longest) == (case.get("shortest", 0), case["longest"])


@pytest.mark.parametrize("case", cases("cursors.json"))
def test_messages_move_the_cursors(case):
    following = Following(case["cursors"])
    delivered = []
    for number, message in enumerate(case["messages"]):
        taken = following.receive(json.dumps(message), 0)
        if taken is not None or message.get("op") == "ready":
            delivered.append(number)

    assert delivered == case["delivered"]
    assert following.cursors == case["after"]


def test_a_channel_that_has_had_no_event_is_followed_from_its_beginning():
    following = Following(["jobs:1"])
    following.receive('{"op":"ready","channels":{"jobs:1":"0"}}', 0)

    assert following.query() == "channel=jobs%3A1,0"  # without the cursor a reconnect would bring the newest event only


@pytest.mark.parametrize("case", cases("sse.json"))
def test_httpx_sse_reads_event_streams_as_we_do(case):
    lines, events = SSELineDecoder(), SSEDecoder()
    read = [events.decode(line.rstrip("\n")) for chunk in case["chunks"] for line in lines.decode(chunk)]

    assert [json.loads(event.data) for event in read if event is not None and event.data] == case["messages"]


@pytest.mark.parametrize("case", [case for case in cases("urls.json") if case.values[0]["transport"] != "poll"])
def test_the_url_of_each_transport(case):
    following = Following(case["cursors"], since=case["since"])

    assert address(case["url"], case["transport"]) == case["address"]
    if case["transport"] == "sse":
        assert parse_qsl(following.query()) == [tuple(pair) for pair in case["query"]]


def test_a_subscribe_command_says_where_each_channel_goes_on():
    following = Following({"jobs:1": "7", "jobs:2": None}, since="0")

    assert json.loads(following.subscribe_command()) == {"op": "subscribe", "channels": {"jobs:1": "7", "jobs:2": "0"}, "ref": 1}
    assert json.loads(following.subscribe_command(["jobs:2"]))["channels"] == {"jobs:2": "0"}
    assert Following([]).subscribe_command() is None


def test_an_event_has_all_its_fields():
    following = Following(["jobs:1"])

    assert following.receive(event("7", final=True), 0) == Event("progress", 1, "jobs:1", "7", final=True)
    assert following.receive('{"type":"x","data":null,"channel":"jobs:1"}', 0) == Event("x", None, "jobs:1", None)
    assert following.receive('{"op":"gap","channel":"jobs:1"}', 0) == Gap("jobs:1")
    assert following.receive('{"op":"pong"}', 0) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "nope", "[1]", "5", "null", "[" * 100_000, '{"type":"a"}'),
        *('{"op":"gap"}', '{"op":"ready","channels":{"jobs:1":"x"}}', '{"op":"bye","code":[]}'),
    ],
)
def test_nonsense_ends_the_connection_and_not_the_subscription(text):
    following = Following(["jobs:1"])
    with pytest.raises(Ended) as ended:
        following.receive(text, 0)

    assert following.end(ended.value, 0) is not None


def test_a_subscription_ends_after_the_final_event_of_each_channel():
    following = Following(["jobs:1", "jobs:2"], until_final=True)
    over = []
    for message in (event("7", final=True), event("8", "jobs:2"), event("9", "jobs:2", final=True)):
        following.receive(message, 0)
        over.append(following.is_over)

    assert over == [False, False, True]
    assert following.end(Ended(1000, "the channels are over"), 0) is not None  # nothing was said by the gateway yet


def test_the_gateway_may_end_a_subscription():
    following = Following({"jobs:1": "5"}, until_final=True)
    assert following.end(Ended(204, ""), 0) is None
    following.receive(READY, 0)
    assert following.end(Ended(1000, ""), 0) is None

    endless = Following(["jobs:1"])
    endless.receive(READY, 0)
    endless.receive(event("9", final=True), 0)
    assert not endless.is_over
    assert not Following([], until_final=True).is_over  # channels may follow
    assert endless.end(Ended(1000, ""), 0) is not None


@pytest.mark.parametrize("code", [400, 403, 4400, 4403])
def test_a_refusal_is_raised_with_its_reason(code):
    with pytest.raises(Refused, match="channel 'jobs:7': the token does not allow it") as refused:
        Following(["jobs:7"], renewable=True).end(Ended(code, "channel 'jobs:7': the token does not allow it"), 0)

    assert refused.value.code == code


def test_a_refused_command_is_a_refusal_and_an_overload_is_not():
    following = Following(["jobs:7"])
    with pytest.raises(Refused, match="403 not yours"):
        following.receive('{"op":"error","ref":1,"status":403,"title":"Forbidden","detail":"not yours","channel":"jobs:7"}', 0)
    with pytest.raises(Ended):
        following.receive('{"op":"error","ref":1,"status":503,"title":"Service Unavailable"}', 0)


@pytest.mark.parametrize("code", [401, 4401])
def test_a_token_is_asked_for_once_more(code):
    following = Following(["jobs:1"], renewable=True)

    assert following.end(Ended(code, "expired"), 0) == 0
    with pytest.raises(Refused):
        following.end(Ended(code, "expired"), 0)


def test_after_a_good_token_another_may_be_asked_for_but_not_in_a_loop():
    following = Following(["jobs:1"], renewable=True, dice=lambda: 1)
    waits = []
    for now in range(4):
        waits.append(following.end(Ended(4401, "expired"), now))
        following.receive(READY, now)

    assert waits == [0, 1, 2, 4]


def test_a_given_token_is_not_asked_for():
    with pytest.raises(Refused):
        Following(["jobs:1"]).end(Ended(4401, "expired"), 0)


def test_only_a_connection_that_lasted_ends_the_back_off():
    following = Following(["jobs:1"], dice=lambda: 1)
    waits = []
    for now in (0, 100, 200):
        following.receive(READY, now)
        waits.append(following.end(Ended(1006, ""), now + LASTING / 2))
    for now in (300, 300 + LASTING):  # the second one answers a command
        following.receive(READY, now)
    waits.append(following.end(Ended(1006, ""), 300 + LASTING))

    assert waits == [0.5, 1, 2, 0.5]


def test_the_transports_are_tried_in_turn_until_one_gets_through():
    following = Following(["jobs:1"])
    tried = []
    for _ in range(4):
        tried.append(following.transport)
        following.end(Ended(0, "refused"), 0)
    following.end(Ended(0, "refused"), 0)  # it is the turn of SSE
    following.receive(READY, 0)
    following.end(Ended(0, "cut"), 0)

    assert tried == ["ws", "sse", "ws", "sse"]
    assert following.transport == "sse"


def test_a_transport_that_was_chosen_is_kept():
    for transport in ("ws", "sse"):
        following = Following(["jobs:1"], transport=transport)
        following.end(Ended(0, "refused"), 0)

        assert following.transport == transport


def test_an_upgrade_that_a_proxy_refuses_moves_to_the_next_transport_at_once():
    following = Following(["jobs:1"])

    assert following.end(Ended(426, "Upgrade Required"), 0) == 0
    assert following.transport == "sse"


def test_an_overload_is_not_a_blocked_websocket():
    following = Following(["jobs:1"], dice=lambda: 0)

    assert following.end(Ended(503, "full", 3), 0) == 3
    assert following.transport == "ws"
    assert Following(["jobs:1"], dice=lambda: 1).end(Ended(503, "full"), 0) == delays(0, later=True)[1] > delays(0)[1]


def test_the_wait_is_between_the_shortest_and_the_longest():
    waits = [Following(["jobs:1"], dice=lambda dice=dice: dice).end(Ended(503, "full", 3), 0) for dice in (0, 0.5, 1)]
    shortest, longest = delays(0, later=True, retry_after=3)

    assert waits == [shortest, (shortest + longest) / 2, longest]


@pytest.mark.parametrize("transport", ["ws", "sse", "auto"])
def test_once_a_transport_has_worked_a_proxys_error_does_not_skip_the_wait(transport):
    # Otherwise all clients of a gateway that restarts would reconnect at the same time.
    following = Following(["jobs:1"], transport=transport, dice=lambda: 1)
    if transport == "auto":
        following.end(Ended(426, "Upgrade Required"), 0)
        following.receive(READY, 0)
        following.end(Ended(0, "cut"), LASTING)

    assert following.end(Ended(502, "Bad Gateway"), 2 * LASTING) > 0


def test_a_gateway_that_cannot_be_reached_does_not_skip_the_wait():
    assert Following(["jobs:1"], dice=lambda: 1).end(Ended(0, "refused"), 0) > 0


def test_what_is_unfollowed_is_not_delivered():
    following = Following(["jobs:1", "jobs:2"])
    following.unfollow("jobs:2")

    assert following.receive(event("7", "jobs:2"), 0) is None
    assert following.receive('{"op":"ready","channels":{"jobs:2":"7"}}', 0) is None
    assert following.cursors == {"jobs:1": None}


def test_a_channel_that_is_followed_again_begins_anew():
    following = Following(["jobs:1"], until_final=True)
    following.receive(event("7", final=True), 0)
    following.receive('{"op":"gap","channel":"jobs:1"}', 0)
    following.unfollow("jobs:1")
    following.follow("jobs:1", "9")

    assert not following.is_over
    assert following.receive(event("8"), 0) is None


@pytest.mark.parametrize(
    ("channels", "options", "named"),
    [
        (["a b"], {}, "channel 'a b'"),
        *(({"a": cursor}, {}, f"cursor {cursor!a} of channel 'a'") for cursor in ("x", 7, "9" * 21)),
        ({"a": "²"}, {}, r"cursor '\\xb2' of channel 'a'"),
        (["a"], {"since": "yesterday"}, "since 'yesterday'"),
        (["a"], {"transport": "smoke"}, "transport 'smoke'"),
    ],
)
def test_wrong_arguments_are_named(channels, options, named):
    with pytest.raises(ValueError, match=named):
        Following(channels, **options)


def test_a_single_string_is_not_a_list_of_channels():
    with pytest.raises(TypeError, match="a list of names"):
        Following("jobs:1")


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://h", "http://", "http://[::1", "http://h:port", "http://h:65536", "http://\u2100"]
)
def test_an_invalid_address_is_named(url):
    with pytest.raises(ValueError, match=r"^url '.*': the gateway's address is expected"):
        address(url, "ws")


def test_an_invalid_address_with_a_password_is_not_shown():
    with pytest.raises(ValueError, match=r"^url: the gateway's address is expected"):
        address("http://ann:hunter2#@h", "ws")
