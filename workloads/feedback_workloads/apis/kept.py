"""Replies beside the artifacts, by their content: whatever asks the same of the same model finds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedback_workloads.apis.client import Reply
from feedback_workloads.storage.objects import Absent, Objects, join


@dataclass(frozen=True)
class KeptReplies:
    """One object a reply: `<root>/replies/<digest of the API's address>/<key>.json`."""

    objects: Objects
    root: str
    url: str

    def find(self, key: str) -> Reply | None:
        """The reply that was kept, if any."""
        try:
            reply: Mapping[str, Any] = json.loads(self.objects.read(self._place(key)))
        except Absent:
            return None
        return reply

    def keep(self, key: str, reply: Reply) -> None:
        """Keep a reply; once this returns, no kill loses it."""
        self.objects.write(self._place(key), json.dumps(reply, ensure_ascii=False).encode())

    def _place(self, key: str) -> str:
        return join(self.root, f"replies/{hashlib.sha256(self.url.encode()).hexdigest()[:16]}/{key}.json")


class Forgotten:
    """Keeps nothing: each request is asked."""

    def find(self, key: str) -> Reply | None:
        return None

    def keep(self, key: str, reply: Reply) -> None:
        pass
