"""Where a request's picture comes from: the request itself, or a host that the operator listed; nowhere else.

A name on the public list must resolve to public addresses, and the connection goes to the very addresses that were
checked, so a name cannot lead inside by resolving anew. Redirects are followed by the same rules.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from feedback_workloads.contract import BadInput
from feedback_workloads.serving.errors import ApiError, invalid
from feedback_workloads.serving.intake.receiving import Arrived

MAX_REDIRECTS = 3
FETCH_SECONDS = 10.0
FETCHES_A_HOST = 32
"""Pictures that are fetched from one host at once: a host that is slow keeps nobody waiting who wants none of its."""
CHUNK_BYTES = 64 * 1024

WRITTEN_OTHERWISE = re.compile(r"[%\s]")
"""In base64 that browsers take too: https://infra.spec.whatwg.org/#forgiving-base64-decode."""

Host = tuple[str, int | None]
"""Name or address as URLs write it, and a port; None stands for the scheme's own port."""


@dataclass(frozen=True)
class PictureHosts:
    """Hosts that pictures may be fetched from; only those in `private` may have addresses that are not public."""

    public: frozenset[Host] = frozenset()
    private: frozenset[Host] = frozenset()

    @classmethod
    def read(cls, public: Iterable[str], private: Iterable[str]) -> PictureHosts:
        """Read `host` or `host:port` of the command line. Raises BadInput for anything else."""
        return cls(frozenset(map(_host, public)), frozenset(map(_host, private)))

    def allowed(self, url: URL) -> bool:
        return bool(_names(url) & (self.public | self.private))

    def may_be_private(self, url: URL) -> bool:
        return bool(_names(url) & self.private)


def _host(text: str) -> Host:
    try:
        url = URL(f"http://{text}")
    except ValueError as error:
        raise BadInput(f"picture host {text!r} is not a host; write host or host:port") from error
    blank = any(map(str.isspace, text))
    if blank or url.raw_host is None or url.user is not None or url.raw_path_qs != "/" or url.raw_fragment:
        raise BadInput(f"picture host {text!r} is not a host; write host or host:port, without scheme and path")
    return url.raw_host, url.explicit_port


def _names(url: URL) -> set[Host]:
    """Return the list entries that stand for this URL's host and port."""
    assert url.raw_host is not None
    return {(url.raw_host, url.port)} | ({(url.raw_host, None)} if url.is_default_port() else set())


@dataclass(frozen=True)
class Pictures:
    """Gets the encoded bytes of a picture, at most `max_bytes`, from a data URL or a listed host."""

    hosts: PictureHosts
    max_bytes: int
    _fetching: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(FETCHES_A_HOST)), init=False
    )

    async def read(self, text: str, param: str, arrived: Arrived) -> bytes:
        """Return the picture's bytes. Raises ApiError (400) about the field `param`, saying what is allowed.

        `arrived` is told of what is fetched.
        """
        if text[:5].lower() == "data:":
            return self._decode(text, param)
        try:
            url = URL(text)
        except ValueError as error:
            raise invalid(param, "the picture's URL cannot be read; send a data URL", "invalid_image_url") from error
        try:
            self._check(url, param)
            async with self._fetching[url.authority], _session(self.hosts, url) as session:
                return await self._fetch(session, url, param, arrived)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # The reason stays out of the answer: it would tell a client what listens where.
            raise invalid(
                param, "the picture could not be fetched; check its URL, or send a data URL", "invalid_image_url"
            ) from error

    def _decode(self, text: str, param: str) -> bytes:
        head, comma, payload = text.partition(",")
        if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
            raise invalid(param, "a data URL must look like data:image/png;base64,...", "invalid_image_url")
        payload = "".join(unquote(payload).split()) if WRITTEN_OTHERWISE.search(payload) else payload
        if len(payload) // 4 * 3 > self.max_bytes + 2:  # base64 writes 3 bytes as 4 characters, with up to 2 of padding
            raise self._too_large(param)
        try:
            data = base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
        except ValueError as error:
            raise invalid(param, f"the data URL is not base64: {error}", "invalid_image_url") from error
        if len(data) > self.max_bytes:
            raise self._too_large(param)
        return data

    async def _fetch(self, session: aiohttp.ClientSession, url: URL, param: str, arrived: Arrived) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and location:
                    url = url.join(URL(location))
                    self._check(url, param)
                    continue
                response.raise_for_status()
                return await self._body(response, param, arrived)
        raise invalid(param, f"the picture's URL redirects more than {MAX_REDIRECTS} times", "invalid_image_url")

    def _check(self, url: URL, param: str) -> None:
        if url.scheme not in ("http", "https") or url.raw_host is None or url.user is not None:
            raise invalid(param, "a picture must be a data URL, or an http(s) URL without a user", "invalid_image_url")
        address_refused = _is_address(url.raw_host) and not _is_public(url.raw_host)
        if not self.hosts.allowed(url) or (address_refused and not self.hosts.may_be_private(url)):
            raise invalid(
                param,
                f"pictures may not be fetched from {url.authority!r} by this server; send a data URL",
                "image_host_refused",
            )

    async def _body(self, response: aiohttp.ClientResponse, param: str, arrived: Arrived) -> bytes:
        if response.content_length is not None and response.content_length > self.max_bytes:
            raise self._too_large(param)
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            arrived(len(chunk))
            data += chunk
            if len(data) > self.max_bytes:
                raise self._too_large(param)
        return bytes(data)

    def check_together(self, pictures: Sequence[bytes], param: str) -> None:
        """Raise ApiError about the field `param` where the pictures of a request have more bytes than one may have."""
        if (total := sum(map(len, pictures))) > self.max_bytes:
            message = f"the pictures have {total} bytes together, more than {self.max_bytes}; send smaller ones"
            raise invalid(param, message, "image_too_large")

    def _too_large(self, param: str) -> ApiError:
        return invalid(
            param, f"the picture has more than {self.max_bytes} bytes; send a smaller one", "image_too_large"
        )


def _session(hosts: PictureHosts, url: URL) -> aiohttp.ClientSession:
    """One session a picture: no cookies, proxies or compression, and connections to checked addresses only."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=_CheckedResolver(hosts), use_dns_cache=False),
        timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "image/*", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


class _CheckedResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to addresses which are not public, unless they are listed as such.

    aiohttp connects to what this returns and resolves nothing itself; addresses in URLs never get here.
    """

    def __init__(self, hosts: PictureHosts) -> None:
        self._hosts = hosts
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not {(host, port), (host, None)} & self._hosts.private:
            for address in found:
                if not _is_public(address["host"]):
                    raise OSError(f"{host} resolves to {address['host']}, which is not a public address")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])  # without an IPv6 zone
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_global and not address.is_multicast
