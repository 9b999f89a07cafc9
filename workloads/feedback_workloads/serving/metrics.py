"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


class Metrics:
    """The server's own metrics, `feedback_serving_*`; `render` adds those of the process and of the policy's engine."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "feedback_serving_requests",
            "Requests by how they ended: ok, disconnected, or the code of the error.",
            ("outcome",),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "feedback_serving_request_seconds",
            "From the complete request to the complete answer, waiting included; answered requests only.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.candidates = Counter("feedback_serving_candidates", "Answers written.", registry=self._registry)
        self.scored = Counter("feedback_serving_scored", "Given answers that were scored.", registry=self._registry)
        self.tokens = Counter(
            "feedback_serving_tokens",
            "Tokens of prompts (once a request, picture included), of candidates (completion) and of given answers.",
            ("kind",),
            registry=self._registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show `value`, read whenever somebody looks, as feedback_serving_<name>."""
        Gauge(f"feedback_serving_{name}", text, registry=self._registry).set_function(value)

    def render(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)
