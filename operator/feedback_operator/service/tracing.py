"""OpenTelemetry spans, where an endpoint is configured and the extra `tracing` is installed; else nothing at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE: Final = "feedback-operator"

_tracer: Tracer | None = None


def start_tracing() -> None:
    """Export spans over HTTP to the endpoint that the standard OTEL_ variables name; without one, do nothing."""
    global _tracer  # noqa: PLW0603 one process, one tracer
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("%s is set but %s is missing; install feedback-operator[tracing]", ENDPOINTS[1], error.name)
        return
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", SERVICE)}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer(SERVICE)


def span(name: str, attributes: Mapping[str, str]) -> AbstractContextManager[Any]:
    """A span around what happens within."""
    return _tracer.start_as_current_span(name, attributes=dict(attributes)) if _tracer else nullcontext()


def trace_id() -> str:
    """Of the span that is open here; empty without one."""
    if _tracer is None:
        return ""
    from opentelemetry.trace import format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else ""
