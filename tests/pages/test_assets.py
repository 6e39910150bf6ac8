"""Assets: types, strict headers, and an ETag that saves the body."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.pages.assets import asset

PLAIN = {"accept-encoding": "identity"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=asset("index.html")), base_url="http://demo", headers=PLAIN) as client:
        yield client


async def test_a_page_comes_with_strict_headers(client: httpx.AsyncClient) -> None:
    response = await client.get("/")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert int(response.headers["content-length"]) == len(response.content) > 1_000


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_what_the_browser_has_is_not_sent_again(client: httpx.AsyncClient, form: str) -> None:
    tag = (await client.get("/")).headers["etag"]

    response = await client.get("/", headers={"if-none-match": form.format(tag)})

    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)


async def test_another_etag_gets_the_page(client: httpx.AsyncClient) -> None:
    response = await client.get("/", headers={"if-none-match": '"other"'})

    assert response.status_code == 200


async def test_head_has_the_length_and_no_body(client: httpx.AsyncClient) -> None:
    response = await client.head("/")

    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 1_000


async def test_nothing_can_be_posted_to_a_page(client: httpx.AsyncClient) -> None:
    response = await client.post("/")

    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.json()["detail"] == "method 'POST': GET or HEAD is expected"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("demo.css", "text/css; charset=utf-8"), ("demo.js", "text/javascript; charset=utf-8"), ("icon.svg", "image/svg+xml")],
)
async def test_each_file_has_its_content_type(name: str, kind: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=asset(name)), base_url="http://demo") as client:
        response = await client.get("/")

    assert response.headers["content-type"] == kind
