"""What vanished while a watch was broken for longer than the API server remembers: found by a list of our own.

Kopf lists a kind anew then, and shows what there is; of what is gone it says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import Final

from feedback_operator.api.calls import WATCHED, Kind
from feedback_operator.cluster.kubernetes.apiserver import ApiServer, ApiServerError
from feedback_operator.cluster.kubernetes.caches import Caches

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 5.0
NAMESPACE: Final = re.compile(r"/namespaces/([^/]+)/[^/]+$")


class Sweeper:
    """Compares the caches with what there is, whenever a kind that was listed before is listed again.

    `tell` is told the keys of all iterations where something was gone: the one that it belonged to may be among it.
    """

    def __init__(self, api: ApiServer, caches: Caches, tell: Callable[[str], None]) -> None:
        self._api = api
        self._caches = caches
        self._tell = tell
        self._known: set[tuple[Kind, str]] = set()
        self._due: asyncio.Queue[tuple[Kind, str]] = asyncio.Queue()

    def asked(self, path: str, query: Mapping[str, str]) -> None:
        """Kopf has had an answer from the API server: was that the first page of a list, and not the first list?"""
        if "watch" in query or "continue" in query:
            return
        if (scope := scope_of(path)) is None:
            return
        if scope in self._known:
            self._due.put_nowait(scope)
        self._known.add(scope)

    async def run(self) -> None:
        """Forever; an API server that cannot be asked is asked again."""
        while True:
            scope = await self._due.get()
            try:
                await self._sweep(*scope)
            except ApiServerError as error:
                logger.info("again in %.0f s: %s", AGAIN_SECONDS, error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._due.put_nowait(scope)

    async def _sweep(self, kind: Kind, namespace: str) -> None:
        census = await self._api.census(kind, namespace)
        gone = self._caches.retain(kind.name, namespace, census.uids, census.version)
        if gone:
            logger.info("%d %s had vanished while their watch was broken", gone, kind.plural)
            for key in self._caches.iterations.all_keys():
                self._tell(key)


def scope_of(path: str) -> tuple[Kind, str] | None:
    """The kind that is listed at a path, and the namespace, empty for all of them; None where it is another path.

    Something may stand in front of it, where the API server is reached through another one.
    """
    found = NAMESPACE.search(path)
    namespace = found[1] if found else ""
    return next(((kind, namespace) for kind in WATCHED if path.endswith(kind.path(namespace))), None)
