"""Times as the Kubernetes API writes them."""

from __future__ import annotations

from datetime import datetime


def timestamp(moment: datetime | None) -> str:
    """RFC 3339 in UTC with whole seconds; empty for None."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def moment_of(text: str) -> datetime | None:
    """The time that an RFC 3339 text says; None for an empty one."""
    return datetime.fromisoformat(text) if text else None
