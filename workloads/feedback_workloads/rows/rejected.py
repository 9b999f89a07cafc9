"""Rows that cannot be used: what is raised where one is found, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass


class BadRow(Exception):
    """One row cannot be used. `reason` is a kebab-case word to count by; `detail` is for the person who mends it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Rejected:
    """A row that was left out, and why.

    `id` is the instruction's id, or the row's place (`data/train.jsonl:17`) where the row has no id of its own: the id
    is missing, or it is taken by an earlier row. `candidate` is set where only that answer was left out.
    """

    id: str
    candidate: int | None
    reason: str
    detail: str
