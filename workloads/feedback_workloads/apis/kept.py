"""Where replies stay: beside the artifacts, by their content, for whatever asks the same; in a file; or nowhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
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


class RepliesFile:
    """Replies as lines of a file, each with its request's key. It is read once, before anything is asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def read(self) -> dict[str, Reply]:
        """Replies by their keys; a line that was being written when a command was killed is taken away."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        *lines, cut = text.split("\n")
        if cut:
            self._path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return {line["key"]: line["reply"] for line in map(json.loads, lines)}

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self._path.unlink(missing_ok=True)

    def find(self, key: str) -> Reply | None:
        """None: what is in the file is not asked for."""
        return None

    def keep(self, key: str, reply: Reply) -> None:
        """Add a line."""
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n")
