"""Static files, plain or gzipped: the browser client, and the OpenAPI description, which must match the real endpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import Settings, create_app
from tests.support.servers import Server

CLIENT = Path(__file__).parents[2] / "clients" / "js"


@pytest.fixture
def description(server: Server) -> Any:
    return httpx.get(f"{server.http}/openapi.json").raise_for_status().json()


FILES = [("/client.js", "text/javascript"), ("/job-progress.js", "text/javascript")]


@pytest.mark.parametrize(("path", "kind"), [*FILES, ("/openapi.json", "application/json")])
def test_an_unchanged_file_is_answered_with_304(server: Server, path: str, kind: str) -> None:
    first = httpx.get(server.http + path)
    again = httpx.get(server.http + path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    other = httpx.get(server.http + path, headers={"If-None-Match": '"other"'})
    head = httpx.head(server.http + path)

    assert first.status_code == other.status_code == head.status_code == 200
    assert first.headers["content-type"].startswith(kind)
    assert first.headers["cache-control"] == "no-cache"
    assert head.headers["content-length"] == first.headers["content-length"]
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert httpx.post(server.http + path).status_code == 405


@pytest.mark.parametrize(("path", "file"), [("/client.js", "client.min.js"), ("/job-progress.js", "job-progress.js")])
def test_a_module_is_that_of_the_browser_client(server: Server, path: str, file: str) -> None:
    assert httpx.get(server.http + path).content == (CLIENT / file).read_bytes()


@pytest.mark.parametrize("accepted", ["gzip", "br, GZIP ; q=0.5", "gzip, deflate, br"])
def test_a_file_is_sent_gzipped_to_clients_that_accept_gzip(server: Server, accepted: str) -> None:
    plain = httpx.get(f"{server.http}/client.js", headers={"Accept-Encoding": "identity"})
    small = httpx.get(f"{server.http}/client.js", headers={"Accept-Encoding": accepted})
    again = httpx.get(f"{server.http}/client.js", headers={"Accept-Encoding": accepted, "If-None-Match": small.headers["etag"]})

    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) == len(plain.content)
    assert small.content == plain.content
    assert small.headers["etag"] != plain.headers["etag"]
    assert "accept-encoding" in small.headers["vary"]
    assert again.status_code == 304


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br, gzip;q=0.000", "gzipped"])
def test_a_file_is_sent_plain_to_others(server: Server, accepted: str) -> None:
    answer = httpx.get(f"{server.http}/client.js", headers={"Accept-Encoding": accepted})

    assert "content-encoding" not in answer.headers
    assert len(answer.content) == int(answer.headers["content-length"])


def walk(value: Any) -> Any:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def test_each_reference_of_the_description_leads_somewhere(description: Any) -> None:
    assert description["openapi"].startswith("3.1.")
    for reference in {part["$ref"] for part in walk(description) if "$ref" in part}:
        found = description
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_each_operation_has_a_name_of_its_own_and_says_what_it_answers(description: Any) -> None:
    operations = [operation for path in description["paths"].values() for operation in path.values()]

    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["responses"]
        assert all(re.fullmatch("[1-5][0-9]{2}", status) for status in operation["responses"])
        assert all("description" in answer or "$ref" in answer for answer in operation["responses"].values())
    schemes = set(description["components"]["securitySchemes"])
    assert all(set(way) <= schemes for operation in [description, *operations] for way in operation.get("security", []))


def test_the_description_names_every_route_and_no_other(description: Any) -> None:
    routes = {route.path for route in create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none")).routes}  # type: ignore[attr-defined]

    assert routes - {"/ws"} == set(description["paths"])


def test_the_answers_are_those_of_the_description(server: Server, description: Any) -> None:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            answer = httpx.request(method, server.http + path, json={} if "requestBody" in operation else None)
            known = set(operation["responses"])
            assert str(answer.status_code) in known, (method, path, answer.status_code)


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}, {"Origin": "https://evil.example"}])
def test_refusals_are_those_of_the_description(server: Server, description: Any, headers: dict[str, str]) -> None:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            body = b"{}" if "requestBody" in operation else None
            answer = httpx.request(method, server.http + path, headers=headers, content=body)
            assert str(answer.status_code) in operation["responses"], (method, path, answer.status_code)


async def test_two_credentials_are_refused_as_the_description_says(description: Any) -> None:
    app = create_app(Settings(redis_url="redis://127.0.0.1:1", jwt_secret="s" * 32))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        for path, operations in description["paths"].items():
            for method, operation in operations.items():
                answer = await client.request(method, path, params={"token": "a"}, headers={"Authorization": "Bearer b"})
                assert str(answer.status_code) in operation["responses"], (method, path, answer.status_code)


def test_a_problem_with_a_channel_fits_the_description_even_if_its_name_is_not_allowed(server: Server, description: Any) -> None:
    problem = httpx.get(f"{server.http}/poll", params={"channel": "a b"}).json()

    assert problem["channel"] == "a b"
    assert description["components"]["schemas"]["Problem"]["properties"]["channel"].keys() == {"type", "description"}


@pytest.mark.parametrize(
    "channel", ["jobs:42", "a,0", "a,now", "a,last", "a,1795215462557031", "", "a b", "*", "a,", "a,x", "a,1,2", "c" * 129]
)
def test_the_description_allows_the_channels_that_may_be_followed(server: Server, description: Any, channel: str) -> None:
    status = httpx.get(f"{server.http}/poll", params={"channel": channel, "wait": 0}).status_code

    assert bool(re.search(description["components"]["schemas"]["Followed"]["pattern"], channel)) == (status == 200)


@pytest.mark.parametrize("last_id", ["", "0", "1795215462557031", "now", "last", "-1", "x", "1" * 17])
def test_the_description_allows_the_last_ids_that_a_client_may_come_with(server: Server, description: Any, last_id: str) -> None:
    parameters = description["components"]["parameters"]
    by_url = httpx.get(f"{server.http}/poll", params={"channel": "a", "wait": 0, "lastEventId": last_id})
    by_header = httpx.get(f"{server.http}/poll", params={"channel": "a", "wait": 0}, headers={"Last-Event-ID": last_id})

    assert bool(re.search(parameters["lastEventId"]["schema"]["pattern"], last_id)) == (by_url.status_code == 200)
    assert bool(re.search(parameters["lastEventIdHeader"]["schema"]["pattern"], last_id)) == (by_header.status_code == 200)


def test_the_requests_that_the_description_shows_are_accepted(server: Server, description: Any) -> None:
    followed = description["components"]["parameters"]["channel"]["examples"]
    published = description["paths"]["/publish"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    answers = [httpx.get(f"{server.http}/poll", params={"channel": shown["value"], "wait": 0}) for shown in followed.values()]
    answers += [httpx.post(f"{server.http}/publish", json=shown["value"]) for shown in published.values()]

    assert {answer.status_code for answer in answers} == {200}
    assert "problem" not in "".join(answer.headers["content-type"] for answer in answers)
    assert all("ids" in item for item in answers[-1].json())


def test_the_description_says_what_an_event_that_is_not_recorded_may_not_have(server: Server, description: Any) -> None:
    schema = description["components"]["schemas"]["Publication"]
    some = {"type": "a", "data": 1, "final": True, "key": "a", "keep": 1, "ttl": 1, "collapse": "a"}
    bodies = {name: {"channel": "live:1", "live": True, name: value} for name, value in some.items()}
    refused = {name for name, body in bodies.items() if httpx.post(f"{server.http}/publish", json=body).status_code == 422}

    assert schema["properties"].keys() == {*some, "channel", "live"}
    assert schema["if"] == {"required": ["live"], "properties": {"live": {"const": True}}}
    assert schema["then"] == {"properties": dict.fromkeys(refused, False)}


def test_the_description_says_that_metrics_need_no_token_on_this_machine(server: Server, description: Any) -> None:
    assert httpx.get(f"{server.http}/metrics").status_code == 200
    assert {} in description["paths"]["/metrics"]["get"]["security"]
