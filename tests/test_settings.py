"""Settings: how values are read, and what each error says."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from gateway.errors import SettingsError
from gateway.settings import Settings, is_loopback, read_settings, serving_problems


def problem(**environ: str) -> str:
    with pytest.raises(SettingsError) as error:
        read_settings(environ)
    return str(error.value)


def test_settings_have_defaults() -> None:
    assert read_settings({}) == Settings()
    assert (Settings().port, Settings().prefix, Settings().max_event_bytes, Settings().max_channels) == (8000, "notify", 65_536, 128)


def test_every_kind_of_value_is_read() -> None:
    settings = read_settings(
        {
            "GATEWAY_REDIS_URL": "rediss://user:secret@redis.example:6380/1",
            "GATEWAY_PORT": "9000",
            "GATEWAY_AUTH": "NONE",
            "GATEWAY_ALLOWED_ORIGINS": "https://app.example, http://localhost:3000/",
            "GATEWAY_HEARTBEAT_SECONDS": "2.5",
            "PATH": "/bin",
        }
    )

    assert settings.redis_url == "rediss://user:secret@redis.example:6380/1"
    assert settings.port == 9000
    assert settings.auth == "none"
    assert settings.allowed_origins == ("https://app.example", "http://localhost:3000")
    assert settings.heartbeat_seconds == 2.5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("redis_url", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis_url", "redis+sentinel://a:26379,b:26379/main", "redis+sentinel://a:26379,b:26379/main"),
        ("jwks_url", "https://id.example:8443/keys?of=app", "https://id.example:8443/keys?of=app"),
        ("authorize_url", "http://127.0.0.1", "http://127.0.0.1"),
        ("allowed_origins", "https://App.example:443,, http://[::1]:80 ", ("https://app.example", "http://[::1]")),
        ("host", "[::1]", "::1"),
        ("host", "gateway.internal", "gateway.internal"),
        ("trusted_proxies", "10.0.0.7, 10.1.0.0/16,,::1 ", ("10.0.0.7", "10.1.0.0/16", "::1")),
    ],
)
def test_an_address_or_a_list_is_taken_as_operators_write_it(name: str, text: str, value: object) -> None:
    assert getattr(read_settings({f"GATEWAY_{name.upper()}": text}), name) == value


@pytest.mark.parametrize("name", [field.name for field in fields(Settings) if field.type in ("int", "float")])
def test_a_number_is_taken_from_the_least_to_the_most_that_its_error_names(name: str) -> None:
    variable = f"GATEWAY_{name.upper()}"
    found = re.search(r"from (\d+) to (\d+) is expected", problem(**{variable: "x"}))
    assert found is not None
    least, most = map(int, found.groups())

    assert [getattr(read_settings({variable: str(number)}), name) for number in (least, most)] == [least, most]
    for text in (str(least - 1), str(most + 1), f"{least}_0", f" {most}", f"{most}e0"):
        assert f"{variable}: {text!r} is wrong" in problem(**{variable: text})


def test_the_command_line_outranks_the_environment() -> None:
    assert read_settings({"GATEWAY_PORT": "9000"}, port=9001, host=None).port == 9001
    assert read_settings({"GATEWAY_PORT": "9000"}, port=None).port == 9000


@pytest.mark.parametrize("host", ["", "a b", "http://gateway", "[gateway]"])
def test_what_the_command_line_says_is_checked_like_the_environment(host: str) -> None:
    assert read_settings({}, host="[::1]").host == "::1"
    with pytest.raises(SettingsError, match=f"^GATEWAY_HOST: {re.escape(repr(host))} is wrong"):
        read_settings({}, host=host)


def test_a_value_can_come_from_a_file(tmp_path) -> None:
    (tmp_path / "url").write_text("redis://localhost:6379\n")

    assert read_settings({"GATEWAY_REDIS_URL_FILE": str(tmp_path / "url")}).redis_url == "redis://localhost:6379"
    assert "GATEWAY_REDIS_URL_FILE" in problem(GATEWAY_REDIS_URL_FILE=str(tmp_path / "absent"))
    assert "GATEWAY_PORT_FILE: 'absent': a readable text file is expected" in problem(GATEWAY_PORT_FILE="absent")
    (tmp_path / "key").write_bytes(b"\xff" * 40)
    assert "a readable text file is expected" in problem(GATEWAY_JWT_SECRET_FILE=str(tmp_path / "key"))
    assert "set twice" in problem(GATEWAY_PORT="1", GATEWAY_PORT_FILE=str(tmp_path / "url"))


def test_a_name_in_small_letters_is_unknown() -> None:
    both = {"GATEWAY_REDIS_URL": "redis://localhost", "GATEWAY_redis_url": "redis://other", "GATEWAY_Port_FILE": "/dev/null"}

    assert problem(**both).splitlines() == [
        "GATEWAY_Port_FILE: unknown; did you mean GATEWAY_PORT?",
        "GATEWAY_redis_url: unknown; did you mean GATEWAY_REDIS_URL?",
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("GATEWAY_REDIS_URL", "localhost:6379", "redis://host:6379"),
        ("GATEWAY_REDIS_URL", "redis://localhost:port", "redis://host:6379"),
        ("GATEWAY_REDIS_URL", "http://localhost:6379", "redis://host:6379"),
        ("GATEWAY_REDIS_URL", "redis:///0", "redis://host:6379"),
        ("GATEWAY_REDIS_URL", "redis://local host", "redis://host:6379"),
        ("GATEWAY_JWKS_URL", "https://id.example/ keys", "address without a password"),
        ("GATEWAY_JWKS_URL", "https://id.example:99999/", "address without a password"),
        ("GATEWAY_TRUSTED_PROXIES", "10.0.0.7,10.0.0.1/8", "addresses or networks"),
        ("GATEWAY_PORT", "eighty", "a whole number from 0 to 65535"),
        ("GATEWAY_PORT", "70000", "a whole number from 0 to 65535"),
        ("GATEWAY_WORKERS", "0", "a whole number from 1 to 256"),
        ("GATEWAY_PREFIX", "a:b", "a letter"),
        ("GATEWAY_AUTH", "yes", "jwt or none"),
        ("GATEWAY_ALLOWED_ORIGINS", "*", "origins such as"),
        ("GATEWAY_MAX_EVENT_BYTES", "-1", "a whole number"),
        ("GATEWAY_HEARTBEAT_SECONDS", "inf", "seconds from"),
        ("GATEWAY_LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("GATEWAY_LOG_FORMAT", "xml", "text or json"),
        ("GATEWAY_REDIS", "redis://x", "unknown; did you mean GATEWAY_REDIS_URL?"),
        ("GATEWAY_QUXX", "1", "unknown; known are GATEWAY_REDIS_URL, "),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1", "enableServiceLinks: false"),
        ("GATEWAY_SERVICE_PORT_HTTP", "80", "enableServiceLinks: false"),
        ("GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1", "enableServiceLinks: false"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(name: str, value: str, expected: str) -> None:
    text = problem(**{name: value})

    assert text.startswith(f"{name}: ")
    assert expected in text


def test_every_problem_has_a_line_and_no_secret_is_shown() -> None:
    text = problem(GATEWAY_PORT="x", GATEWAY_REDIS_URL="tcp://:hunter2@h", GATEWAY_NOPE="1")

    assert len(text.splitlines()) == 3
    assert "hunter2" not in text
    assert "hunter2" not in repr(Settings(redis_url="redis://:hunter2@h"))
    assert "hunter2" not in problem(GATEWAY_REDIS_URL="redis://ann:hunter2", GATEWAY_JWT_SECRET="hunter2")
    assert "hunter2" not in problem(GATEWAY_AUTHORIZE_URL="https://ann:hunter2@h/", GATEWAY_JWT_SECRET_FILE="hunter2")
    assert "/absent" in problem(GATEWAY_JWT_SECRET_FILE="/absent")


def test_without_authentication_only_loopback_is_served() -> None:
    open_to_all = Settings(redis_url="redis://h", auth="none", host="0.0.0.0")

    assert any("loopback" in line for line in serving_problems(open_to_all))
    assert serving_problems(Settings(redis_url="redis://h", auth="none", host="::1")) == []
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "10.0.0.1", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_serving_says_what_is_missing() -> None:
    lines = serving_problems(Settings())

    assert [line.partition(":")[0] for line in lines] == ["GATEWAY_REDIS_URL", "GATEWAY_AUTH"]
    assert "gateway demo" in lines[0]
