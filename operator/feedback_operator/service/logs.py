"""One JSON object a line: time, level, message, and which iteration and stage it is about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal

from feedback_operator.service.tracing import trace_id

Format = Literal["json", "text"]

_iteration: ContextVar[str] = ContextVar("iteration", default="")
CHATTY: Final = ("kopf", "asyncio", "aiohttp.access")
"""Kopf tells of every event that it sees, and the health server of every probe: they are heard from a warning on."""
TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


@contextmanager
def about(iteration: str) -> Iterator[None]:
    """Everything logged within names this iteration."""
    token = _iteration.set(iteration)
    try:
        yield
    finally:
        _iteration.reset(token)


class JsonLines(logging.Formatter):
    """Fields that are empty are left out."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "iteration": _iteration.get(),
            "stage": getattr(record, "stage", ""),
            "trace": trace_id(),
            "error": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False)


def log_to_stderr(form: Format, level: str) -> None:
    """Send all logs of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
