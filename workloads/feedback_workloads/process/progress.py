"""How far a stage process is: Prometheus metrics that the operator and the command line scrape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

PORT_VARIABLE = "FEEDBACK_METRICS_PORT"

Count = Literal["tokens", "pairs", "rejected"]
Level = Literal["loss", "reward_margin", "learning_rate"]


@dataclass(frozen=True)
class Account:
    """The work of a stage process, in the unit that its stage counts: instructions, answers or optimizer steps."""

    total: int = 0
    before: int = 0
    """Complete before this process began."""
    here: int = 0
    """Completed by this process; where it ends early, what was not stored yet is lost."""

    def __str__(self) -> str:
        return f"{self.here} of {self.total} done here, {self.before} before"


class Progress:
    """One stage process's progress. Without `serve` it only counts.

    Metrics: `feedback_stage_done` and `feedback_stage_total` (in the unit the stage names), `feedback_stage_phase`
    (1 for the phase that is going on), counters `feedback_stage_{tokens,pairs,rejected}_total`, and gauges
    `feedback_stage_{loss,reward_margin,learning_rate}`.
    """

    def __init__(self, stage: str, shard: int = 0) -> None:
        self.registry = CollectorRegistry()
        names = ("stage", "shard")
        values = (stage, str(shard))

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"feedback_stage_{name}", text, names, registry=self.registry).labels(*values)

        self._done = gauge("done", "Units of work that are complete.")
        self._total = gauge("total", "Units of work in all.")
        self._phase = Gauge("feedback_stage_phase", "What is going on.", (*names, "phase"), registry=self.registry)
        self._labels = values
        self._counters = {
            name: Counter(f"feedback_stage_{name}", f"Number of {name}.", names, registry=self.registry).labels(*values)
            for name in ("tokens", "pairs", "rejected")
        }
        self._levels = {name: gauge(name, f"Latest {name}.") for name in ("loss", "reward_margin", "learning_rate")}
        self._account = Account()

    def serve(self, port: int) -> None:
        """Serve /metrics on `port` from a daemon thread."""
        start_http_server(port, registry=self.registry)

    def phase(self, name: str) -> None:
        """Say what is going on now, in words for a person: `loading the engine`."""
        self._phase.clear()
        self._phase.labels(*self._labels, name).set(1)

    def start(self, total: int, done: int = 0) -> None:
        """Begin the counted work: `total` units, of which `done` were complete before this process began."""
        self._show(Account(total, before=done))

    def extend(self, units: int) -> None:
        """Count units that turn out to be left to do besides."""
        self._show(replace(self._account, total=self._account.total + units))

    def resume(self, units: int) -> None:
        """Count units that turn out to have been complete before this process began."""
        self._show(replace(self._account, before=self._account.before + units))

    def advance(self, units: int = 1) -> None:
        """Count units that this process has completed."""
        self._show(replace(self._account, here=self._account.here + units))

    def account(self) -> Account:
        """What there is to do, and who has done what of it."""
        return self._account

    def _show(self, account: Account) -> None:
        self._account = account
        self._total.set(account.total)
        self._done.set(account.before + account.here)

    def count(self, name: Count, number: int) -> None:
        self._counters[name].inc(number)

    def level(self, name: Level, value: float) -> None:
        self._levels[name].set(value)
