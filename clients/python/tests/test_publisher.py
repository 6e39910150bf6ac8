"""Both publishers against real servers: what is recorded, and whether through the function or the script."""

import asyncio
import json
import traceback
from importlib import resources
from pathlib import Path

import pytest
import redis
import redis.asyncio
from notify_client import AsyncPublisher, Publisher

from clients.python.tests.common import Twin, publish_until_taken
from tests.support.hearing import hearing
from tests.support.tls import tls_before
from tests.support.waiting import eventually


def test_the_script_is_the_gateways():
    ours = resources.files("notify_client").joinpath("publish.lua").read_bytes()
    gateways = Path(__file__).parents[3] / "gateway" / "store" / "publish.lua"

    assert ours == gateways.read_bytes()


def test_an_event_is_recorded_and_its_id_returned(connect, valkey):
    publisher = connect(valkey.url)

    id = publisher.publish("jobs:1", "progress", {"percent": 40, "näme": "\u2028<\n"})
    last = publisher.publish("jobs:1", "completed", final=True)

    assert valkey.log() == [
        '{"type":"progress","data":{"percent":40,"näme":"\u2028<\\n"}}'.encode(),
        b'{"type":"completed","data":null,"final":true}',
    ]
    assert int(id) < int(last)
    assert (valkey.calls("fcall"), valkey.calls("eval"), publisher.dropped) == (2, 0, 0)


def test_every_option_reaches_redis(connect, valkey):
    publisher = connect(valkey.url)

    ids = [publisher.publish("jobs:1", "a", n, key=f"k{n}", keep=2, ttl=60, collapse="a" if n > 2 else None) for n in range(5)]

    assert [json.loads(event)["data"] for event in valkey.log()] == [2, 4]
    assert valkey.redis.ttl("notify:log:{jobs:1}") <= 60
    assert publisher.publish("jobs:1", "a", key="k0") == ids[0]


def test_as_much_and_as_little_may_be_kept_as_the_gateway_allows(connect, valkey):
    publisher = connect(valkey.url)
    longest = "x" * (65_536 - len('{"type":"a","data":""}'))

    assert publisher.publish("jobs:1", "a", longest, key="k" * 512, keep=10_000, ttl=30 * 86_400, collapse="c" * 512) is not None
    assert valkey.redis.ttl("notify:log:{jobs:1}") > 29 * 86_400
    assert publisher.publish("jobs:1", "a", keep=1, ttl=1) is not None


def test_a_live_event_is_sent_and_not_recorded(connect, valkey):
    publisher = connect(valkey.url)
    with hearing(valkey.redis, "notify:jobs:1") as heard:
        assert publisher.live("jobs:1", "typing", {"by": "ann"}) == 1
        assert heard() == [b'{"type":"typing","data":{"by":"ann"}}']
    assert publisher.live("jobs:2", "typing") == 0
    assert valkey.redis.dbsize() == 0


def test_the_prefix_names_keys_and_function(connect, valkey):
    valkey.load("shop")
    publisher = connect(valkey.url, prefix="shop")

    publisher.publish("jobs:1", "a")

    assert len(valkey.log(prefix="shop")) == 1
    assert valkey.calls("fcall") == 1


@pytest.mark.parametrize("decode", [False, True])
def test_a_ready_client_is_used_and_left_open(valkey, decode):
    client = redis.Redis(port=valkey.port, decode_responses=decode)
    connection = client.client_id()
    with Publisher(client=client) as publisher:
        assert isinstance(publisher.publish("jobs:1", "a"), str)

    assert client.client_id() == connection
    client.close()


async def test_events_are_published_over_tls(valkey, tmp_path):
    async with tls_before(valkey.port, tmp_path) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'certificate.pem'}"
        async with AsyncPublisher(url, timeout=10) as publisher:
            assert await publisher.publish("jobs:1", "a")
        with Publisher(url, timeout=10) as publisher:
            assert await asyncio.to_thread(publisher.publish, "jobs:1", "b")

    assert len(valkey.log()) == 2


async def test_a_ready_asyncio_client_is_used_and_left_open(valkey):
    client = redis.asyncio.Redis(port=valkey.port)
    connection = await client.client_id()
    async with AsyncPublisher(client=client) as publisher:
        assert isinstance(await publisher.publish("jobs:1", "a"), str)

    assert await client.client_id() == connection
    await client.aclose()


@pytest.mark.parametrize("kind", [Publisher, Twin], ids=["threads", "asyncio"])
def test_closing_closes_the_connections(kind, valkey):
    publisher = kind(valkey.url, timeout=10)
    publisher.publish("jobs:1", "a")
    connections = len(valkey.redis.client_list())
    publisher.close()

    assert eventually(lambda: len(valkey.redis.client_list()) == connections - 1)


def nested(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("words", "options", "problem"),
    [
        (("a b", "x"), {}, "channel 'a b': only letters, digits"),
        (("jobs:1\n", "x"), {}, r"channel 'jobs:1\\n'"),
        (("a" * 129, "x"), {}, "channel 'aaa"),
        ((7, "x"), {}, "channel 7"),
        (("c", "x y"), {}, "type 'x y': only letters, digits"),
        (("c", ""), {}, "type ''"),
        (("c", "x", float("nan")), {}, "data nan: it is not JSON"),
        (("c", "x", [float("inf")]), {}, "it is not JSON"),
        (("c", "x", {"a": "\ud800"}), {}, r"'\\ud800' is half of a character"),
        (("c", "x", {"\udfff": 1}), {}, "half of a character"),
        (("c", "x", b"bytes"), {}, "data b'bytes': it is not JSON"),
        (("c", "x", {(1, 2): 3}), {}, "it is not JSON"),
        (("c", "x", nested(100_000)), {}, "nested too deeply"),
        (("c", "x", "é" * 32_768), {}, r"[0-9]+ bytes of JSON, at most 65536"),
        (("c", "x"), {"keep": 0}, "keep 0: a whole number from 1 to 10000"),
        (("c", "x"), {"keep": 10_001}, "keep 10001"),
        (("c", "x"), {"keep": True}, "keep True"),
        (("c", "x"), {"ttl": 2_592_001}, "ttl 2592001: a whole number from 1 to 2592000"),
        (("c", "x"), {"ttl": 1.5}, "ttl 1.5"),
        (("c", "x"), {"key": ""}, "key '': text of 1 to 512 bytes"),
        (("c", "x"), {"key": "é" * 257}, "key '"),
        (("c", "x"), {"collapse": "\ud800"}, "collapse "),
    ],
)
def test_a_wrong_argument_is_named_before_anything_goes_to_redis(connect, refused, words, options, problem):
    publisher = connect(refused)

    with pytest.raises(ValueError, match=problem) as raised:
        publisher.publish(*words, **options)
    assert len(str(raised.value)) < 250  # however long the argument is
    assert publisher.dropped == 0


def test_data_that_cannot_say_what_it_is_is_named_by_its_kind(connect, refused):
    class Row:
        def __repr__(self):
            raise RuntimeError("the session is over")

    with pytest.raises(ValueError, match="data <Row>: it is not JSON"):
        connect(refused).publish("c", "x", Row())


def test_data_that_contains_itself_is_refused(connect, refused):
    data: list = []
    data.append(data)

    with pytest.raises(ValueError, match="Circular reference"):
        connect(refused).publish("c", "x", data)


def test_what_redis_calls_invalid_is_a_value_error(connect, valkey):
    publisher = connect(valkey.url)

    with pytest.raises(ValueError, match=r"^the event is not JSON: .* too many nested"):
        publisher.publish("jobs:1", "x", nested(300))
    with pytest.raises(ValueError, match="at most 65536"):
        connect(valkey.url, max_event_bytes=100_000).publish("jobs:1", "x", "x" * 70_000)
    assert publisher.dropped == 0
    assert publisher.publish("jobs:1", "x")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": None}, "url or client"),
        ({"url": "http://x"}, "redis://"),
        ({"url": "redis://x?soket_timeout=1"}, "soket_timeout"),
        ({"prefix": "a-b"}, "prefix 'a-b'"),
        ({"prefix": "1shop"}, "prefix '1shop'"),
        ({"prefix": "s" * 33}, "prefix 's{33}'"),
        ({"timeout": 0}, "timeout 0"),
        ({"timeout": 61}, "timeout 61"),
        ({"max_event_bytes": 0}, "max_event_bytes 0"),
    ],
)
def test_a_wrong_setting_is_named_at_once(connect, options, problem):
    with pytest.raises(ValueError, match=problem):
        connect(**{"url": "redis://x"} | options)


@pytest.mark.parametrize("url", ["redis://:hunter2#@x", "rediss://ann:hunter2/@x", "redis://:hunter2\u2100@x"])
def test_a_password_that_makes_a_url_wrong_is_not_shown(connect, url):
    with pytest.raises(ValueError, match="url: redis://host:6379 is expected") as raised:
        connect(url)

    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("kind", "client", "problem"),
    [
        (Publisher, redis.asyncio.Redis(), "client: redis.asyncio.client.Redis is for the other class"),
        (AsyncPublisher, redis.Redis(), "client: redis.client.Redis is for the other class"),
    ],
)
def test_a_client_of_the_other_kind_is_refused_at_once(kind, client, problem):
    with pytest.raises(TypeError, match=problem):
        kind(client=client)


def test_an_old_server_runs_the_script(connect, old_redis):
    publisher = connect(old_redis.url)

    ids = [publisher.publish("jobs:1", "a", n, key="k" if n < 2 else None) for n in range(4)]

    assert ids[0] == ids[1] < ids[2] < ids[3]
    assert (old_redis.calls("eval"), old_redis.calls("evalsha")) == (1, 3)
    old_redis.redis.script_flush()
    assert publisher.publish("jobs:1", "a")
    assert publisher.dropped == 0


def test_the_script_runs_until_the_function_is_loaded(connect, valkey):
    valkey.redis.function_flush()
    publisher = connect(valkey.url)
    first = publisher.publish("jobs:1", "a", key="k")
    again = publisher.publish("jobs:1", "a", key="k")
    calls = valkey.calls("fcall")
    valkey.load()
    valkey.redis.script_flush()

    assert publisher.publish("jobs:1", "a", key="k") == again == first
    assert (calls, valkey.calls("fcall"), publisher.dropped) == (1, 2, 0)


def test_a_function_that_vanishes_is_replaced_by_the_script(connect, valkey):
    publisher = connect(valkey.url)
    publisher.publish("jobs:1", "a")
    valkey.redis.function_flush()

    assert publisher.publish("jobs:1", "a")
    assert publisher.dropped == 0


def test_an_old_server_that_became_a_new_one_is_called_by_function(connect, old_redis, valkey_program):
    publisher = connect(old_redis.url)
    publisher.publish("jobs:1", "a")
    publisher.publish("jobs:1", "a")
    old_redis.kill()
    old_redis.start(valkey_program)
    old_redis.load()

    assert publish_until_taken(publisher)
    assert publisher.publish("jobs:1", "a")
    assert old_redis.calls("fcall") == len(old_redis.log()) == 2
