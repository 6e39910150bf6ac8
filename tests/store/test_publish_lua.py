"""publish.lua on each server it runs on: as a function and as a script of Valkey, and as a script of Redis 6.2."""

import json
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.hearing import hearing
from tests.support.programs import old_redis_program, valkey_program

SOURCE = (Path(__file__).parents[2] / "gateway" / "store" / "publish.lua").read_text()
FILLED = SOURCE.replace("@PREFIX@", "notify").replace("@MAX_EVENT_BYTES@", "65536")
WAYS = ["valkey function", "valkey script", "redis 6.2 script"]
DAY, SLOT = 86_400, 10_000
EARLIEST = 1_700_000_000_000_000
LIBRARY = (
    f"#!lua name=notify\n{FILLED}\n"
    "redis.register_function('notify_publish', function(keys, args) return answer(publish, keys[1], args) end)\n"
)
SCRIPT = f"{FILLED}\nreturn answer(publish, KEYS[1], ARGV)\n"


@contextmanager
def started(program: str) -> Iterator[redis.Redis]:
    # Not in pytest's folder, whose path is too long: macOS allows 103 bytes for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield from running(program, folder)


def running(program: str, folder: str) -> Iterator[redis.Redis]:
    words = [program, "--port", "0", "--unixsocket", "s", "--save", ""]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=f"{folder}/s", protocol=2, retry=Retry(NoBackoff(), 0))
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(redis.ConnectionError):
                client.ping()
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def valkey() -> Iterator[redis.Redis]:
    with started(valkey_program()) as client:
        yield client


@pytest.fixture(scope="module")
def old_redis() -> Iterator[redis.Redis]:
    with started(old_redis_program()) as client:
        yield client


def entry_parts(entry: bytes) -> tuple[str, str, str, bytes]:
    """The parts of a log entry: its id, the whole id before it, its label, its JSON."""
    head, json = entry.split(b"\n", 1)
    id, before, *label = head.decode().split(" ")
    return id, before if before == "0" else id[: -len(before)] + before, label[0] if label else "", json


@dataclass
class Store:
    redis: redis.Redis
    call: Callable[..., Any]

    def publish(self, event: Any, *options: object, channel: str = "jobs:1") -> str:
        raw = event if isinstance(event, bytes) else json.dumps(event).encode()
        answer = self.call(channel, raw, *options)
        return str(answer.decode())

    def refusal(self, *words: object, channel: str = "jobs:1") -> str:
        with pytest.raises(redis.ResponseError) as caught:
            self.call(channel, *words)
        return str(caught.value)

    def log(self, channel: str = "jobs:1") -> list[tuple[str, str, str, bytes]]:
        entries: Any = self.redis.lrange(f"notify:log:{{{channel}}}", 0, -1)
        return [entry_parts(entry) for entry in entries]


@pytest.fixture(params=WAYS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    server: redis.Redis = request.getfixturevalue("old_redis" if "6.2" in request.param else "valkey")
    server.flushall()
    if request.param == "valkey function":
        server.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
        words: tuple[str, ...] = ("FCALL", "notify_publish")
    else:
        words = ("EVALSHA", str(server.script_load(SCRIPT)))
    yield Store(server, lambda channel, *rest: server.execute_command(*words, 1, channel, *rest))
    server.config_set("maxmemory", 0)


def test_events_of_one_transaction_have_ids_of_their_own_though_its_time_stands_still(store: Store) -> None:
    before = store.publish(0)
    store.redis.execute_command("MULTI")
    queued = [store.publish(number) for number in (1, 2, 3)]
    ids: Any = store.redis.execute_command("EXEC")

    assert queued == ["QUEUED"] * 3
    assert [before.encode(), *ids] == [id.encode() for id, *_ in store.log()] == sorted({before.encode(), *ids})


def test_an_event_is_logged_and_announced_with_the_id_before_it(store: Store) -> None:
    with hearing(store.redis, "notify:jobs:1") as heard:
        first = store.publish(b'{"type":"queued"}')
        second = store.publish(b'{"type": "completed", "data": {"a":1.50}, "final": true}')

        assert store.log() == [
            (first, "0", "", b'{"type":"queued"}'),
            (second, first, "", b'{"type": "completed", "data": {"a":1.50}, "final": true}'),
        ]
        assert heard() == [
            f'{first} 0\n{{"type":"queued"}}'.encode(),
            f'{second} {first}\n{{"type": "completed", "data": {{"a":1.50}}, "final": true}}'.encode(),
        ]
        assert store.redis.get("notify:last:{jobs:1}") == f"{second}1".encode()


def test_ids_are_microseconds_that_rise_over_all_channels_in_one_pipeline(store: Store) -> None:
    before = time.time_ns() // 1000
    ids = [int(store.publish(number, channel=f"jobs:{number % 3}")) for number in range(300)]

    assert ids == sorted(set(ids))
    assert before <= ids[0] <= ids[-1] <= time.time_ns() // 1000 + 1000


def test_ids_rise_in_the_first_tenth_of_a_second_too(valkey: redis.Redis) -> None:
    valkey.flushall()
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    with valkey.pipeline(transaction=False) as pipeline:
        for _ in range(5):
            pipeline.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1")
        time.sleep(1 - time.time() % 1)  # from now on the server's clock has microseconds of few digits
        before = time.time_ns() // 1000
        ids = list(map(int, pipeline.execute()))

    assert ids == sorted(set(ids))
    assert before <= ids[0]
    assert ids[-1] <= time.time_ns() // 1000


def test_who_holds_the_data_is_asked_for_once_a_second_and_not_for_each_event(valkey: redis.Redis) -> None:
    valkey.flushall()
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    valkey.config_resetstat()
    began = time.monotonic()
    for _ in range(300):
        valkey.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1")
    seconds = time.monotonic() - began

    assert 2 <= valkey.info("commandstats")["cmdstat_info"]["calls"] < 4 * (seconds + 2)


def test_ids_rise_although_the_clock_was_set_back(store: Store) -> None:
    first = int(store.publish(1))
    ahead = first + 3600 * 1_000_000
    store.redis.set("notify:clock", str(ahead))

    assert [ahead + 1, ahead + 2] == [int(store.publish(2)), int(store.publish(3, channel="jobs:2"))]


def test_ids_rise_and_there_is_a_floor_although_all_data_is_gone(store: Store) -> None:
    first = int(store.publish(1))
    for _ in range(3):  # each time in the second in which the clock was opened, or at the beginning of the next one
        store.redis.flushall()
        second = int(store.publish(1))

        assert [first < floor < second for floor in floors(store.redis)] == [True]
        first = second


def test_a_clock_of_1970_makes_no_ids_older_than_this_software(store: Store) -> None:
    store.publish(1)
    store.redis.set("notify:clock", 900_000_000)
    store.redis.delete("notify:holder")

    assert int(store.publish(2)) > EARLIEST


def test_one_key_publishes_once_and_always_answers_the_first_id(store: Store) -> None:
    ids = {store.publish({"type": "completed", "data": number}, "KEY", "a key\n\0 é") for number in range(5)}

    assert len(ids) == 1
    assert [entry[3] for entry in store.log()] == [b'{"type": "completed", "data": 0}']


def test_a_key_holds_for_its_channel_and_a_day(store: Store) -> None:
    first = store.publish(1, "KEY", "k")
    other = store.publish(1, "KEY", "k", channel="jobs:2")
    (key,) = store.redis.keys("notify:key:{jobs:1}:*")

    assert first != other
    assert DAY - 2 <= store.redis.ttl(key) <= DAY


def test_a_key_is_not_remembered_for_an_event_that_was_refused(store: Store) -> None:
    store.refusal(b"nul", "KEY", "k")

    assert store.publish(1, "KEY", "k") == store.log()[0][0]


def test_keep_limits_the_log_and_the_rest_shows_as_missing(store: Store) -> None:
    ids = [store.publish(number, "KEEP", 3) for number in range(5)]

    assert [(ids[2], ids[1]), (ids[3], ids[2]), (ids[4], ids[3])] == [entry[:2] for entry in store.log()]


def test_a_hundred_events_stay_without_keep(store: Store) -> None:
    for number in range(103):
        store.publish(number)

    assert [str(number).encode() for number in range(3, 103)] == [entry[3] for entry in store.log()]


def test_the_log_lives_for_its_ttl_and_the_newest_id_a_day_longer(store: Store) -> None:
    store.publish(1)
    assert DAY - 2 <= store.redis.ttl("notify:log:{jobs:1}") <= DAY

    store.publish(2, "ttl", 60)
    assert 58 <= store.redis.ttl("notify:log:{jobs:1}") <= 60
    assert DAY + 60 <= store.redis.ttl("notify:last:{jobs:1}") <= DAY + 60 + SLOT


def test_the_newest_id_outlives_the_log_by_a_day_although_its_expiry_is_not_set_with_each_event(store: Store) -> None:
    store.publish(1)
    store.redis.expire("notify:last:{jobs:1}", DAY + DAY + 5)
    store.publish(2)
    assert DAY + DAY <= store.redis.ttl("notify:last:{jobs:1}") <= DAY + DAY + 5

    # As if that had been hours ago: in another stretch of 10,000 s.
    last: Any = store.redis.get("notify:last:{jobs:1}")
    store.redis.set("notify:last:{jobs:1}", int(last) - 10 * SLOT * 1_000_000, keepttl=True)
    store.publish(3)
    assert DAY + DAY + SLOT - 5 <= store.redis.ttl("notify:last:{jobs:1}") <= DAY + DAY + SLOT


def test_the_newest_id_outlives_the_log_also_while_a_clock_that_was_set_back_catches_up(store: Store) -> None:
    store.publish(1)
    store.redis.set("notify:clock", str(int((time.time() + 30 * DAY) * 1e6)))
    store.publish(2)
    store.redis.expire("notify:last:{jobs:1}", DAY)  # as it is two days later, by a clock that is still behind
    store.publish(3)

    assert store.redis.ttl("notify:last:{jobs:1}") >= DAY + DAY


def test_the_newest_id_lives_long_enough_after_an_event_with_a_short_ttl(store: Store) -> None:
    store.publish(1, "TTL", 60)
    store.publish(2)

    assert store.redis.ttl("notify:last:{jobs:1}") >= DAY + DAY


def test_ids_that_are_far_apart_are_stored_whole(store: Store) -> None:
    first = store.publish(1)
    apart = [int(first) - far for far in (7_000_000, 700_000_000, 70_000_000_000, 10**14)]
    for id in apart:
        store.redis.set("notify:last:{jobs:1}", f"{id}0")
        store.publish(2)

    assert [str(id) for id in apart] == [entry[1] for entry in store.log()[1:]]


def test_the_id_before_is_known_after_the_log_has_expired(store: Store) -> None:
    first = store.publish(1)
    store.redis.delete("notify:log:{jobs:1}")
    second = store.publish(2)

    assert [(second, first, "", b"2")] == store.log()


def test_the_id_before_is_known_after_the_newest_id_was_evicted(store: Store) -> None:
    ids = [store.publish(n) for n in range(2)]
    store.redis.delete("notify:last:{jobs:1}")
    ids.append(store.publish(2))

    assert [entry[:2] for entry in store.log()] == list(zip(ids, ["0", *ids], strict=False))


def test_events_with_one_label_replace_each_other_and_are_all_announced(store: Store) -> None:
    with hearing(store.redis, "notify:jobs:1") as heard:
        started = store.publish("started")
        ids = [store.publish(number, "COLLAPSE", "progress", "KEEP", 2) for number in range(50)]

        assert [(started, "0", "", b'"started"'), (ids[-1], started, "progress", b"49")] == store.log()
        assert [f"{id} {before}\n{n}".encode() for n, (before, id) in enumerate(zip([started, *ids], ids, strict=False))] == heard()[1:]


def test_an_event_in_between_ends_collapsing(store: Store) -> None:
    ids = [store.publish(0, *(("COLLAPSE", label) if label else ())) for label in ("a", "a", None, "a", "b", "b")]

    assert [entry[:3] for entry in store.log()] == [
        (ids[1], "0", "a"),
        (ids[2], ids[1], ""),
        (ids[3], ids[2], "a"),
        (ids[5], ids[3], "b"),
    ]


def test_a_label_of_any_bytes_stays_on_one_line(store: Store) -> None:
    for _ in range(2):
        store.publish(0, "COLLAPSE", b"a b\n%\xff")

    assert [entry[2] for entry in store.log()] == ["a%20b%0a%25%ff"]


@pytest.mark.parametrize(
    "entry", [b"99999999999999999999999999 0 \n{}", b"9999999999999999 0 \n{}", b"1 0 \n{}", b"1700000000000000 99999999999999999999 \n{}"]
)
def test_a_foreign_entry_in_the_log_does_not_count_as_the_event_before(store: Store, entry: bytes) -> None:
    store.redis.rpush("notify:log:{jobs:1}", entry)
    with hearing(store.redis, "notify:jobs:1") as heard:
        id = store.publish(1)

        assert heard() == [f"{id} 0\n1".encode()]
        assert store.log()[1] == (id, "0", "", b"1")


def test_a_foreign_entry_in_the_log_is_not_replaced(store: Store) -> None:
    store.redis.rpush("notify:log:{jobs:1}", "not an entry")
    id = store.publish(1, "COLLAPSE", "x")

    assert [b"not an entry", f"{id} 0 x\n1".encode()] == store.redis.lrange("notify:log:{jobs:1}", 0, -1)


GOOD = [
    *(
        b"1",
        b"-0",
        b"-0.0",
        b"1.5e+05",
        b"[1.9,9.0]",
        b"1e999",
        b"null",
        b" [ ] ",
        b'{"a":1,"a":2}',
        b'\t{\n"type"\r:\n"x" }\n',
        b'"v1. x"',
        b'"\\"1.\\\\"',
    ),
    *(b'"-."', b'"\x7f"', b'"\\u0000"', b'"\\ud83d\\ude00"', '"é€😀\u2028"'.encode(), b"[" * 256 + b"]" * 256, b'"' + b"a" * 65_534 + b'"'),
    *(b'{"type":5}', b'{"type":"x","id":1}', b'{"type":"x y","channel":1}', b'{"\\u0074ype":"x"}', b'{"type":"' + b"x" * 64 + b'"}'),
]
BAD = [
    *(
        b"",
        b" ",
        b"nul",
        b"nullx",
        b"1 2",
        b"[1,]",
        b'{"a":1,}',
        b"{1:2}",
        b"{'a':1}",
        b"[[[",
        b'"\\x41"',
        b'"\\',
        b"// x\n1",
        b"\xef\xbb\xbf1",
    ),
    *(b"NaN", b"[nan]", b"-NaN", b"Infinity", b"-inf", b"0x10", b"-0x10", b"01", b"-01", b"+1", b"-", b"- 1", b"1e", b"1_0", b"1.5.3"),
    *(b"1.", b"0.", b"[0.]", b"[1.]", b"[9.]", b"1. ", b"1.e5", b"-1.", b".5", b"-.5", b"[-.5]", b'"a",-.5'),
    *(b'"a\nb"', b'"\t"', b'"a\x00b"', b'"\x1f"', b'["\\"\n"]', b'{}\x00{"a"', b"1\x00", b"-1\x002", b"\x00", b"\x0b1", b"\x0c1"),
    *(b'"\xff"', b'"\xc3"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"', b'"\xf0\x9f\x98"', b"1\xa0"),
    *(b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\u0041"', b'"\\u00zz"', b"[" * 257 + b"]" * 257, b"[" * 300 + b"]" * 300, b"[" * 20_000),
    *(
        b'"' + b"a" * 65_535 + b'"',
        b'{"type":""}',
        b'{"type":"a b"}',
        b'{"type":"x\\n"}',
        b'{"type":"x\\u0000"}',
        b'{"type":"' + b"x" * 65 + b'"}',
    ),
    *(b'{"type":"x","final":null}', b'{"type":"x","final":1}', b'{"type":"x","type":"y z"}', b'{"type":"_x"}'),
]


def test_json_passes_through_byte_for_byte(store: Store) -> None:
    for event in GOOD:
        store.publish(event)

    assert [entry[3] for entry in store.log()] == GOOD


def test_invalid_json_is_refused_in_one_printable_line_and_leaves_nothing(store: Store) -> None:
    refusals = [store.refusal(event) for event in BAD]

    assert [text for text in refusals if not text.startswith("INVALID ") or not text.isprintable() or len(text) > 300] == []
    assert store.redis.dbsize() == 0


def test_publishing_goes_on_after_bad_json(store: Store) -> None:
    store.refusal(b"[" * 300)

    # The decoder's settings are the server's: another script finds them as they were.
    assert store.redis.eval("return {type(cjson.decode('NaN')), #cjson.decode(ARGV[1])}", 0, "[" * 900 + "]" * 900) == [b"number", 1]
    assert store.publish(1) == store.log()[0][0]


def is_json(text: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


def test_exactly_what_a_strict_parser_accepts_is_accepted(store: Store) -> None:
    whole = [b'[1.5,-2e3,0,"x\\n\\u00e9",null,true,{"k":-0.1}]', b'[1,2.0,"a.b",-3]', '"1.\\"é😀"'.encode(), b"-12.5e+3"]
    pieces = [bytes([byte]) for byte in b'0123456789.-+eE"\\{}[],: \n\t\r\x00\x01\x1f\x7fxuna/\x0b\x0c']
    pieces += [b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xf0\x9f", b"NaN", b"1.", b"-.", b'\\"', b"\xe2\x80\xa8"]
    seed = random.randrange(2**32)
    choose = random.Random(seed)
    texts = []
    for _ in range(1500):
        text = choose.choice(whole)
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(text) + 1)
            text = text[:at] + choose.choice([*pieces, b""]) + text[at + choose.randint(0, 1) :]
        texts.append(text)

    def accepts(text: bytes) -> bool:
        try:
            store.publish(text)
        except redis.ResponseError as error:
            if str(error).startswith("INVALID "):
                return False
            raise
        return True

    assert [(seed, text) for text in texts if accepts(text) != is_json(text)] == []


@pytest.mark.parametrize("channel", ["", "a b", "*", "jobs:\n", "é", "-a", "a" * 129, "a{b}", "a\0", "[a-z]"])
def test_an_invalid_channel_is_refused(store: Store, channel: str) -> None:
    assert store.refusal(b"1", channel=channel).startswith("INVALID channel '")
    assert store.redis.dbsize() == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("KEEP", "0"), "KEEP '0'"),
        (("KEEP", "10001"), "KEEP '10001'"),
        (("KEEP", "1.5"), "KEEP '1.5'"),
        (("KEEP", "1e3"), "KEEP '1e3'"),
        (("KEEP", "-1"), "KEEP '-1'"),
        (("KEEP", "9" * 400), "KEEP '999"),
        (("TTL", "2592001"), "TTL '2592001'"),
        (("TTL", ""), "TTL ''"),
        (("TTL", "\n"), "TTL '?'"),
        (("KEY", ""), "KEY has 0 bytes"),
        (("KEY", "x" * 513), "KEY has 513 bytes"),
        (("COLLAPSE", ""), "COLLAPSE has 0 bytes"),
        (("TTL",), "option 'TTL' has no value"),
        (("NX", "1"), "option 'NX' is unknown"),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(store: Store, options: tuple[str, ...], problem: str) -> None:
    assert store.refusal(b"1", *options).startswith(f"INVALID {problem}")
    assert store.redis.dbsize() == 0


def test_an_option_with_leading_zeros_is_the_number_that_it_says(store: Store) -> None:
    for _ in range(3):
        id = store.publish(1, "KEEP", "02", "TTL", "0000000060")

    assert store.log()[-1][0] == id
    assert len(store.log()) == 2
    assert store.redis.ttl("notify:log:{jobs:1}") == 60


@pytest.mark.parametrize("extra", [{}, {"id": 1}])
def test_only_an_event_can_be_final_and_other_data_that_says_so_cannot(store: Store, extra: dict[str, Any]) -> None:
    id = store.publish({"type": "x", "final": True} | extra)

    assert store.redis.get("notify:last:{jobs:1}") == f"{id}{0 if extra else 1}".encode()


def test_the_largest_options_are_accepted(store: Store) -> None:
    store.publish(1, "KEEP", 10_000, "TTL", 2_592_000, "KEY", "x" * 512, "COLLAPSE", "y" * 512)

    assert 2_592_000 - 2 <= store.redis.ttl("notify:log:{jobs:1}") <= 2_592_000


def test_the_longest_channel_is_accepted(store: Store) -> None:
    store.publish(1, channel="c" * 128)

    assert store.redis.llen(f"notify:log:{{{'c' * 128}}}") == 1


def test_an_event_is_needed(store: Store) -> None:
    assert store.refusal() == "INVALID the event is missing"


def test_a_channel_is_needed(valkey: redis.Redis) -> None:
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)

    with pytest.raises(redis.ResponseError, match=r"^INVALID the channel is missing: FCALL notify_publish 1 <channel> <json> is expected"):
        valkey.execute_command("FCALL", "notify_publish", 0, "jobs:1", "1")


def test_full_memory_refuses_with_its_own_code_and_leaves_no_ghost(store: Store) -> None:
    first = store.publish(1)
    with hearing(store.redis, "notify:jobs:1") as heard:
        store.redis.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            store.publish(2, "KEY", "k")
        with pytest.raises(redis.OutOfMemoryError):
            store.publish(2, channel="jobs:2")
        store.redis.config_set("maxmemory", 0)

        assert heard() == []
        assert store.log() == [(first, "0", "", b"1")]
        second = store.publish(2, "KEY", "k")
        assert [f"{second} {first}\n2".encode()] == heard()


def test_a_replica_refuses_with_its_own_code(store: Store) -> None:
    store.publish(1)
    store.redis.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(redis.ReadOnlyError):
            store.publish(2)
    finally:
        store.redis.replicaof("NO", "ONE")

    assert [entry[3] for entry in store.log()] == [b"1"]


def test_too_few_replicas_refuse_with_their_own_code(store: Store) -> None:
    store.redis.config_set("min-replicas-to-write", 1)
    try:
        assert store.refusal(b"1").startswith("NOREPLICAS ")
    finally:
        store.redis.config_set("min-replicas-to-write", 0)

    assert store.redis.dbsize() == 0


def test_a_foreign_value_under_a_key_of_ours_is_refused_before_anything_is_announced(store: Store) -> None:
    with hearing(store.redis, "notify:jobs:1") as heard:
        store.redis.set("notify:log:{jobs:1}", "x")

        assert "WRONGTYPE" in store.refusal(b"1", "KEY", "k")
        assert heard() == []
        assert {b"notify:log:{jobs:1}", b"notify:clock", b"notify:holder"} == set(store.redis.keys("*"))


def test_a_short_channel_costs_less_than_a_kibibyte(store: Store) -> None:
    for number in range(5):
        store.publish({"type": "progress", "data": f"{number}" * (100 - 32)})
    keys = ["notify:log:{jobs:1}", "notify:last:{jobs:1}"]
    assert {100} == {len(entry[3]) for entry in store.log()}
    assert {b"notify:clock", b"notify:holder", *map(str.encode, keys)} == set(store.redis.keys("*"))

    size = sum(store.redis.memory_usage(key, samples=0) or 0 for key in keys)
    assert size < 1024, size


def test_an_event_refused_because_of_a_foreign_value_is_not_the_newest(store: Store) -> None:
    first = store.publish(1)
    log: Any = store.redis.dump("notify:log:{jobs:1}")
    for options in ((), ("COLLAPSE", "x")):
        store.redis.set("notify:log:{jobs:1}", "x")
        assert "WRONGTYPE" in store.refusal(b"2", *options)
        store.redis.set("notify:log:{jobs:2}", "x")
        assert "WRONGTYPE" in store.refusal(b"2", *options, channel="jobs:2")
    assert not store.redis.exists("notify:last:{jobs:2}")
    assert store.redis.ttl("notify:last:{jobs:1}") >= DAY + DAY - 5
    store.redis.restore("notify:log:{jobs:1}", 0, log, replace=True)
    last = store.publish(3)

    assert store.log() == [(first, "0", "", b"1"), (last, first, "", b"3")]


def floors(server: redis.Redis) -> list[int]:
    holder: Any = server.get("notify:holder")
    return list(map(int, holder.split()[1:]))


def held_by_another(server: redis.Redis) -> None:
    """As if another process had written what is there."""
    holder: Any = server.get("notify:holder")
    server.set("notify:holder", b" ".join([b"0" * 40 + b"-" + b"0" * 40, *(holder or b"").split()[1:]]))


def test_a_function_that_takes_over_data_without_append_only_file_raises_the_floor(valkey: redis.Redis) -> None:
    valkey.flushall()
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    first = int(valkey.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1")) + 3_600_000_000
    valkey.set("notify:clock", first)  # the clock of its host was an hour ahead
    held_by_another(valkey)
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    second = int(valkey.execute_command("FCALL", "notify_publish", 1, "jobs:1", "2"))

    oldest, newest = floors(valkey)
    assert oldest < first < newest < second


def test_a_publisher_whose_rights_do_not_reach_to_the_announcement_of_a_floor_is_not_refused(valkey: redis.Redis) -> None:
    valkey.flushall()
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    valkey.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1")
    held_by_another(valkey)
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    valkey.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "+@all", "~*", "&notify:jobs:*")
    path = valkey.get_connection_kwargs()["path"]
    with redis.Redis(unix_socket_path=path, username="worker", password="secret") as worker:
        worker.execute_command("FCALL", "notify_publish", 1, "jobs:1", "2")
    valkey.execute_command("ACL", "DELUSER", "worker")

    assert valkey.llen("notify:log:{jobs:1}") == len(floors(valkey)) == 2


@pytest.mark.parametrize("earlier", [0, 1, 2])
@pytest.mark.parametrize("options", [(), ("COLLAPSE", "p"), ("KEY", "k"), ("KEEP", 1, "TTL", 60)])
def test_an_event_that_its_publisher_may_not_announce_is_refused_and_leaves_no_trace(
    store: Store, options: tuple[object, ...], earlier: int
) -> None:
    for number in range(earlier):
        store.publish(number, "COLLAPSE", "q")
        store.publish(number, "COLLAPSE", "p")
    log, last = store.log(), store.redis.get("notify:last:{jobs:1}")
    store.redis.execute_command("ACL", "SETUSER", "default", "resetchannels")
    try:
        assert "channel" in store.refusal("1", *options)
    finally:
        store.redis.execute_command("ACL", "SETUSER", "default", "allchannels")

    assert (store.log(), store.redis.get("notify:last:{jobs:1}"), store.redis.keys("notify:key:*")) == (log, last, [])
    id = store.publish(1, *options)
    assert store.log()[-1][0] == id


def test_a_worker_with_the_rights_that_the_guide_names_can_publish(valkey: redis.Redis) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    found = re.search("A worker needs `([^`]+)`", guide)
    assert found
    valkey.flushall()
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    valkey.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1")
    held_by_another(valkey)
    valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    valkey.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">secret", *found[1].split())
    path = valkey.get_connection_kwargs()["path"]
    with redis.Redis(unix_socket_path=path, username="worker", password="secret") as worker:
        for event in ("2", "3"):
            worker.execute_command("FCALL", "notify_publish", 1, "jobs:1", event, "COLLAPSE", "p", "KEEP", 2)
        first, again = (worker.execute_command("FCALL", "notify_publish", 1, "jobs:1", "4", "KEY", "k", "KEEP", 2) for _ in range(2))
    valkey.execute_command("ACL", "DELUSER", "worker")

    assert first == again
    assert valkey.llen("notify:log:{jobs:1}") == len(floors(valkey)) == 2


def test_the_newest_32_floors_are_kept(valkey: redis.Redis) -> None:
    valkey.flushall()
    for _ in range(40):
        held_by_another(valkey)
        valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
        newest = int(valkey.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1"))

    kept = floors(valkey)
    assert len(kept) == 32
    assert kept == sorted(kept)
    assert newest - 1_000_000 < kept[-1] < newest


@pytest.mark.parametrize("text", ["", "gar bage", "-1", "1e300", "nan", "9" * 40])
def test_a_foreign_text_under_a_key_of_ours_is_replaced_by_the_next_event(store: Store, text: str) -> None:
    first = store.publish(1)
    store.redis.set("notify:last:{jobs:1}", text)
    store.redis.set("notify:holder", text)
    store.redis.set("notify:clock", text)
    second = store.publish(2)

    assert int(first) < int(second) < time.time_ns() // 1000
    assert store.log() == [(first, "0", "", b"1"), (second, first, "", b"2")]
    assert store.redis.get("notify:last:{jobs:1}") == f"{second}0".encode()
    assert int(first) < floors(store.redis)[-1] < int(second)
