"""The numbers of a chart as CSV, which a link in the page holds."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedback_workloads.report.evidence import Row


def csv_url(rows: Sequence[Row]) -> str:
    """A `data:` URL of a table; empty without rows. What is nested in a row has a column of its own, `recall.low`."""
    if not rows:
        return ""
    flat = [dict(_flat(row)) for row in rows]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)))
    writer.writeheader()
    writer.writerows(flat)
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.getvalue().encode()).decode()}"


def counted(counts: Mapping[str, int], name: str) -> list[Row]:
    """A row for each value of `name` and how often it is there."""
    return [{name: value, "count": count} for value, count in counts.items()]


def _flat(row: Row, before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
