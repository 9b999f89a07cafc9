"""Prometheus metrics of the operator. Names and labels are documented in docs/operations.md."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feedback_operator.api import IterationStatus

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0, 3 * 24 * 3600.0)


@dataclass(frozen=True)
class IterationFigures:
    """One iteration as metrics see it. `hallucination`: share of answers with one, of the baseline and the aligned."""

    namespace: str
    name: str
    state: str
    hallucination: tuple[float, float] | None


class Telemetry:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.waited = Histogram(
            "feedback_operator_queue_wait_seconds",
            "Time that a key waited for a worker.",
            buckets=FAST,
            registry=self.registry,
        )
        self.reconciled = Histogram(
            "feedback_operator_reconcile_seconds",
            "Time of one reconciliation, by how it ended.",
            ["outcome"],
            buckets=FAST,
            registry=self.registry,
        )
        self.retries = Counter(
            "feedback_operator_queue_retries_total",
            "Keys that rest after a failure and come again.",
            registry=self.registry,
        )
        self.calls = Histogram(
            "feedback_operator_api_call_seconds",
            "Calls to the API server; code is a status code or the name of an error.",
            ["kind", "verb", "code"],
            buckets=FAST,
            registry=self.registry,
        )
        self.stages = Histogram(
            "feedback_operator_stage_seconds",
            "From the start of a stage's Job to its end, by how it ended.",
            ["stage", "state"],
            buckets=LONG,
            registry=self.registry,
        )
        self.transitions = Counter(
            "feedback_operator_stage_transitions_total",
            "Stages that came to a state.",
            ["stage", "state"],
            registry=self.registry,
        )

    def watch(
        self,
        depth: Callable[[], int],
        leading: Callable[[], bool],
        iterations: Callable[[], Iterable[IterationFigures]],
    ) -> None:
        """Metrics that are read off at the moment when they are asked for."""
        self.registry.register(_Iterations(depth, leading, iterations))

    def called(self, kind: str, verb: str, code: str, seconds: float) -> None:
        """One call to the API server."""
        self.calls.labels(kind, verb, code).observe(seconds)

    def changed(self, before: IterationStatus, after: IterationStatus) -> None:
        """A status was recorded: stages that came to a new state, and how long those that ended took."""
        old = {stage.name: stage.state for stage in before.stages}
        for stage in after.stages:
            if stage.state == old.get(stage.name, "Waiting"):
                continue
            self.transitions.labels(stage.name, stage.state).inc()
            if stage.state in ("Done", "Failed") and stage.start_time and stage.completion_time:
                took = datetime.fromisoformat(stage.completion_time) - datetime.fromisoformat(stage.start_time)
                self.stages.labels(stage.name, stage.state).observe(took.total_seconds())


class _Iterations(Collector):
    """Gauges over all iterations, made of the caches, so that none is left behind when an iteration goes."""

    def __init__(
        self,
        depth: Callable[[], int],
        leading: Callable[[], bool],
        iterations: Callable[[], Iterable[IterationFigures]],
    ) -> None:
        self._depth = depth
        self._leading = leading
        self._iterations = iterations

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("feedback_operator_queue_depth", "Keys that wait for a worker.", value=self._depth())
        yield GaugeMetricFamily("feedback_operator_leading", "1 on the replica that acts.", value=self._leading())
        states = GaugeMetricFamily(
            "feedback_operator_iterations", "Iterations by namespace and state.", labels=["namespace", "state"]
        )
        shares = GaugeMetricFamily(
            "feedback_operator_hallucination_ratio",
            "Share of answers with a hallucination on the report split, of the baseline and of the aligned policy.",
            labels=["namespace", "iteration", "policy"],
        )
        tally: Tally[tuple[str, str]] = Tally()
        for iteration in self._iterations():
            tally[iteration.namespace, iteration.state] += 1
            if iteration.hallucination:
                for policy, share in zip(("baseline", "aligned"), iteration.hallucination, strict=True):
                    shares.add_metric([iteration.namespace, iteration.name, policy], share)
        for (namespace, state), count in tally.items():
            states.add_metric([namespace, state], count)
        yield states
        yield shares
