"""Rows of one file by a key, for the rows of another: on the disk, so that memory does not grow with them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Lookup:
    """JSON values by key; several may have one key, and come in the order in which they were given."""

    def __init__(self, file: Path, rows: Iterable[tuple[int | str, Any]]) -> None:
        """Write the rows to a new file."""
        self._table = sqlite3.connect(file, isolation_level=None)
        self._table.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;"
            "CREATE TABLE found (key, value TEXT);"
        )
        self._table.execute("BEGIN")
        self._table.executemany("INSERT INTO found VALUES (?, ?)", ((key, json.dumps(value)) for key, value in rows))
        self._table.execute("COMMIT")
        self._table.execute("CREATE INDEX by_key ON found (key)")

    def all(self, key: int | str) -> list[Any]:
        """The values of a key."""
        rows = self._table.execute("SELECT value FROM found WHERE key = ? ORDER BY rowid", (key,))
        return [json.loads(value) for (value,) in rows]

    def one(self, key: int | str) -> Any:
        """The first value of a key; None where there is none."""
        row = self._table.execute("SELECT value FROM found WHERE key = ? ORDER BY rowid LIMIT 1", (key,)).fetchone()
        return json.loads(row[0]) if row else None
