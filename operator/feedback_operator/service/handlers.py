"""The only module that imports Kopf: its watches fill the caches, its events put keys into the queue, and that is all.

Kopf's own indices would not do as caches: they compare no versions, so they cannot be written through, and with it go
read-your-writes; and they keep for ever what vanished while a watch was broken, which sweeper.py finds for the caches.
An index handler is used for what it has beside: Kopf holds back all events until every kind was listed once. Kopf keeps
nothing on the objects: no finalizers, no annotations, no peering.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import kopf

from feedback_operator.api.calls import WATCHED, Kind
from feedback_operator.cluster.kubernetes.caches import Caches

logger = logging.getLogger(__name__)

BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0)
LONGEST_BACKOFF_SECONDS: Final = 3.0
PAGE: Final = 200
"""Objects a page of the first list: what they take as text is needed at once, and no more."""


class Patiently:
    """Pauses between tries of a watch or a list, without an end: an API server that is away comes back."""

    def __iter__(self) -> Iterator[float]:
        yield from BACKOFF_SECONDS
        while True:
            yield LONGEST_BACKOFF_SECONDS


class NothingRemembered(kopf.DiffBaseStorage):
    """Kopf compares each object with what it was at the last handling; there is nothing that it should handle."""

    def build(self, *, body: kopf.Body, extra_fields: object = None, **_: object) -> Any:
        return {}

    def fetch(self, *, body: kopf.Body, **_: object) -> Any:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: object, **_: object) -> None:
        return None


@dataclass(frozen=True)
class Connection:
    """The API server for Kopf: a session that authenticates each request anew, as tokens are renewed under it."""

    server: str
    session: Callable[[], aiohttp.ClientSession]


@dataclass(frozen=True)
class Hooks:
    """What runs beside the watches: `started` before them, `stopped` after them, `probes` when asked for health."""

    started: Callable[[], Awaitable[None]]
    stopped: Callable[[], Awaitable[None]]
    probes: Mapping[str, Callable[[], object]]


def registry_of(
    caches: Caches, enqueue: Callable[[str], None], listed: asyncio.Event, connection: Connection, hooks: Hooks
) -> Any:
    """All handlers of the operator. `listed` is set once all kinds were listed and there is something to do."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: object) -> None:
        configure(settings)
        await hooks.started()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: object) -> None:
        await hooks.stopped()

    @kopf.on.login(registry=registry)
    async def login(**_: object) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=connection.session())

    for name, probe in hooks.probes.items():
        _add_probe(registry, name, probe)
    for kind in WATCHED:
        _add_watch(registry, kind, caches, enqueue, listed)
    return registry


def configure(settings: kopf.OperatorSettings) -> None:
    """Kopf as watcher and nothing else."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NothingRemembered()
    settings.networking.error_backoffs = Patiently()
    settings.networking.connect_timeout = 5
    settings.watching.chunk_size = PAGE
    settings.watching.connect_timeout = 5
    settings.queueing.idle_timeout = 0.5
    for kind in WATCHED:
        if kind.labels:
            settings.watching.label_selectors[_selected(kind)] = kind.labels


async def watch(registry: Any, namespaces: Sequence[str], liveness: str | None) -> None:
    """Run the watches until the process is told to end. No namespaces: all of them."""
    await kopf.operator(
        registry=registry,
        namespaces=list(namespaces),
        clusterwide=not namespaces,
        liveness_endpoint=liveness,
        standalone=True,
    )


def _add_watch(
    registry: Any, kind: Kind, caches: Caches, enqueue: Callable[[str], None], listed: asyncio.Event
) -> None:
    """Follow one kind. Index handlers run at once, event handlers from when every kind was listed."""

    def take_in(body: kopf.Body) -> Iterable[str]:
        return caches.put(kind.name, dict(body))

    @kopf.index(*_where(kind), id=f"first-{kind.plural}", registry=registry, when=lambda **_: not listed.is_set())
    async def first_seen(body: kopf.Body, **_: object) -> None:
        take_in(body)

    @kopf.on.event(*_where(kind), id=f"seen-{kind.plural}", registry=registry)
    async def seen(event: Mapping[str, Any], body: kopf.Body, **_: object) -> None:
        if kind.status:
            listed.set()
        gone = event["type"] == "DELETED"
        for key in caches.drop(kind.name, dict(body)) if gone else take_in(body):
            enqueue(key)


def _where(kind: Kind) -> tuple[str, str, str]:
    """Group, version and plural name, as Kopf selects resources."""
    return kind.group, kind.api_version.rpartition("/")[2], kind.plural


def _selected(kind: Kind) -> Callable[[kopf.Resource], bool]:
    return lambda resource: (resource.group, resource.plural) == (kind.group, kind.plural)


def _add_probe(registry: Any, name: str, probe: Callable[[], object]) -> None:
    @kopf.on.probe(registry=registry, id=name)
    async def ask(**_: object) -> object:
        return probe()
