"""Where pictures may come from."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput
from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.intake.pictures import FETCHES_A_HOST, PictureHosts, Pictures, _is_public

LIMIT = 1000
PICTURE = bytes(range(256)) * 3


def pictures(public: tuple[str, ...] = (), private: tuple[str, ...] = ()) -> Pictures:
    return Pictures(PictureHosts.read(public, private), max_bytes=LIMIT)


def data_url(data: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(data).decode()


def nothing(size: int) -> None:
    """Nobody counts what arrives."""


async def refusal(source: Pictures, url: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await source.read(url, "messages[0]", nothing)
    assert (caught.value.status, caught.value.param) == (400, "messages[0]")
    return caught.value


# ── data URLs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 2, 3, LIMIT - 2, LIMIT - 1, LIMIT])
async def test_data_url(size: int) -> None:
    data = bytes(size)
    assert await pictures().read(data_url(data), "p", nothing) == data
    assert await pictures().read(data_url(data, "DATA:image/jpeg;BASE64,"), "p", nothing) == data


@pytest.mark.parametrize("size", [LIMIT - 2, LIMIT - 1, LIMIT])
async def test_base64_as_browsers_take_it(size: int) -> None:
    data = bytes(size)
    for payload in (
        base64.encodebytes(data).decode(),
        base64.encodebytes(data).decode().replace("\n", "%0D%0A"),
        base64.b64encode(data).decode().rstrip("="),
        base64.b64encode(data).decode().replace("=", "%3D"),
    ):
        assert await pictures().read(f"data:image/png;base64,{payload}", "p", nothing) == data


@pytest.mark.parametrize(
    ("url", "code"),
    [
        pytest.param("data:image/png;base64", "invalid_image_url", id="no payload"),
        pytest.param("data:image/png,abc", "invalid_image_url", id="not base64"),
        pytest.param("data:text/html;base64,AAAA", "invalid_image_url", id="not a picture"),
        pytest.param("data:image/png;base64,A*==", "invalid_image_url", id="wrong letters"),
        pytest.param("data:image/png;base64,AAAAA", "invalid_image_url", id="wrong length"),
        pytest.param("data:image/png;base64,\u00e9", "invalid_image_url", id="not ASCII"),
        pytest.param(data_url(bytes(LIMIT + 1)), "image_too_large", id="a byte too large"),
        pytest.param(data_url(bytes(LIMIT * 10)), "image_too_large", id="much too large"),
        pytest.param("", "invalid_image_url", id="empty"),
        pytest.param("cat.png", "invalid_image_url", id="no scheme"),
        pytest.param("file:///etc/passwd", "invalid_image_url", id="a file"),
        pytest.param("http://", "invalid_image_url", id="no host"),
        pytest.param("http://[", "invalid_image_url", id="broken address"),
        pytest.param("http://a:b", "invalid_image_url", id="broken port"),
        pytest.param("http://pictures.example/cat.png", "image_host_refused", id="not on the list"),
        pytest.param("https://user@listed.example/cat.png", "invalid_image_url", id="with a user"),
        pytest.param("http://listed.example.:80/cat.png", "image_host_refused", id="another spelling"),
        pytest.param("http://listed.example:8080/cat.png", "image_host_refused", id="another port"),
        pytest.param("http://listed.example@evil.example/", "invalid_image_url", id="a listed name as user"),
        pytest.param("http://evil.example#listed.example", "image_host_refused", id="a listed name as fragment"),
        pytest.param("http://evil.example\\@listed.example/", "invalid_image_url", id="backslash"),
    ],
)
async def test_refused(url: str, code: str) -> None:
    assert (await refusal(pictures(public=("listed.example",)), url)).code == code


@given(st.text())
async def test_any_text_is_refused_without_a_trace(url: str) -> None:
    await refusal(pictures(), url)


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["", "http://a", "a/b", "a?b", "u@a", "a:b", "a b", "a#b"])
def test_list_entries_that_are_not_hosts(host: str) -> None:
    with pytest.raises(BadInput, match="picture host"):
        PictureHosts.read([host], [])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.5.4", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert _is_public(address) is public


# ── fetching from a real server on loopback ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A web site on loopback: `host:port`."""

    async def cat(request: web.Request) -> web.Response:
        assert "Cookie" not in request.headers
        return web.Response(body=PICTURE, content_type="image/png", headers={"Set-Cookie": "a=b"})

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=bytes(LIMIT + 1))

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()  # chunked: says no length
        await response.prepare(request)
        while True:
            await response.write(bytes(LIMIT))

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    app = web.Application()
    app.add_routes(
        [
            web.get("/cat.png", cat),
            web.get("/large.png", large),
            web.get("/endless.png", endless),
            web.get("/redirect", redirect),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_fetches_from_a_listed_host(site: str) -> None:
    assert await pictures(private=(site,)).read(f"http://{site}/cat.png", "p", nothing) == PICTURE


async def test_a_name_is_resolved(site: str) -> None:
    name = site.replace("127.0.0.1", "localhost")
    assert await pictures(private=(name,)).read(f"http://{name}/cat.png", "p", nothing) == PICTURE


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_public_entry_does_not_lead_to_a_private_address(site: str, name: str) -> None:
    host = site.replace("127.0.0.1", name)
    error = await refusal(pictures(public=(host,)), f"http://{host}/cat.png")
    assert error.code in ("image_host_refused", "invalid_image_url")
    assert "public" not in error.message  # nothing about what the name resolves to


async def test_an_address_is_refused_by_default(site: str) -> None:
    assert (await refusal(pictures(), f"http://{site}/cat.png")).code == "image_host_refused"


@pytest.mark.parametrize("path", ["large.png", "endless.png"])
async def test_a_large_picture_is_not_read_to_its_end(site: str, path: str) -> None:
    assert (await refusal(pictures(private=(site,)), f"http://{site}/{path}")).code == "image_too_large"


@pytest.mark.parametrize("path", ["missing.png", "redirect?to=/missing.png"])
async def test_what_is_not_there(site: str, path: str) -> None:
    assert (await refusal(pictures(private=(site,)), f"http://{site}/{path}")).code == "invalid_image_url"


async def test_nobody_listens() -> None:
    error = await refusal(pictures(private=("127.0.0.1:1",)), "http://127.0.0.1:1/cat.png")
    assert error.code == "invalid_image_url"


async def test_redirect_within_the_list(site: str) -> None:
    assert await pictures(private=(site,)).read(f"http://{site}/redirect?to=/cat.png", "p", nothing) == PICTURE


@pytest.mark.parametrize(
    "target", ["http://evil.example/cat.png", "http://localhost/cat.png", "//evil.example/", "file:///etc/passwd"]
)
async def test_redirect_out_of_the_list(site: str, target: str) -> None:
    error = await refusal(pictures(private=(site,)), f"http://{site}/redirect?to={target}")
    assert error.code in ("image_host_refused", "invalid_image_url")


async def test_what_is_fetched_is_counted_as_it_arrives(site: str) -> None:
    arrived: list[int] = []
    await pictures(private=(site,)).read(f"http://{site}/cat.png", "p", arrived.append)
    assert sum(arrived) == len(PICTURE)


async def test_a_slow_host_does_not_hold_up_pictures_of_others(site: str) -> None:
    """More are asked of it than are fetched at once, and it answers none of them."""
    asked, answered = asyncio.Semaphore(0), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        await answered.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as slow:
        host = f"127.0.0.1:{slow.sockets[0].getsockname()[1]}"
        source = pictures(private=(site, host))
        waiting = [asyncio.create_task(refusal(source, f"http://{host}/{i}.png")) for i in range(FETCHES_A_HOST + 8)]
        for _ in range(FETCHES_A_HOST):
            await asked.acquire()
        assert await source.read(f"http://{site}/cat.png", "p", nothing) == PICTURE
        assert asked.locked()
        assert not any(task.done() for task in waiting)
        answered.set()
        await asyncio.gather(*waiting)


async def test_redirects_end(site: str) -> None:
    loop = f"http://{site}/redirect?to=/redirect"
    error = await refusal(pictures(private=(site,)), loop + "?to=/redirect?to=/redirect?to=/redirect?to=/redirect")
    assert error.code == "invalid_image_url"
