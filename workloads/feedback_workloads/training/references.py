"""Reference log-probabilities: those of the sampler where they agree with a forward pass, recomputed where not.

Where they are far from each other nothing is trained, since serving ranks by the sampler's engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]
Scores = tuple[list[float], ...]
"""Log-probabilities of a row's chosen and rejected tokens under the base model and, where the loss is conditional, of
its chosen tokens under a piece of the picture."""
Score = Callable[[Sequence[Row]], list[Scores]]

DRIFT_TOLERANCE = 0.05
"""Largest mean absolute error of a pair's reward margin, beta x (reference_w - reference_l), that is let pass.

The slope of DPO's loss in the margin is at most 1, so this also bounds the error of its mean.
"""

METRICS_NAME = "references.json"
TABLE_NAME = "references.parquet"
CROPPED = "ref_cropped_logps"
COLUMNS = ("ref_chosen_logps", "ref_rejected_logps", CROPPED)
"""Of each of `Scores`, as the rows have them; the last one is there where the loss is conditional."""


@dataclass(frozen=True)
class Parity:
    """How far the sampler's log-probabilities are from a forward pass over the same tokens.

    Differences are absolute, in nats a token; `margin_drift` is in units of the reward (nats times beta), a pair.
    """

    rows: int
    tokens: int
    mean_difference: float
    max_difference: float
    margin_drift: float

    def check(self, limit: float, *, rounded: bool = False) -> None:
        """Raise BadInput where the difference is no rounding error: the two sides compute different models.

        Where the forward pass is that of a `rounded` model, which is not the sampler's, it is to be close to that one.
        """
        if self.mean_difference <= limit:  # which it is not where it is no number
            return
        why = (
            "rounded by spec.training.lora.quantization it is another model than the one that was sampled from and is "
            "to be served; leave that out, or raise the limit"
            if rounded
            else "vLLM and transformers compute different models, and best-of-N would rank answers by the wrong one; "
            "set spec.precision to Float32, give a model that both compute alike, or raise the limit"
        )
        raise BadInput(
            f"the sampler's log-probabilities are {self.mean_difference:.3g} nats a token from those of a forward "
            f"pass, on average over {self.tokens} tokens, more than spec.training.parityLimit {limit:g}: {why}"
        )

    def holds(self, tolerance: float) -> bool:
        return self.mean_difference <= tolerance and self.margin_drift <= DRIFT_TOLERANCE

    def metrics(self) -> dict[str, float]:
        return {
            "parity_rows": float(self.rows),
            "parity_mean_difference": self.mean_difference,
            "parity_max_difference": self.max_difference,
            "parity_margin_drift": self.margin_drift,
        }


def total(logps: Sequence[float], shorter: int, ld_alpha: float | None) -> float:
    """The sum over an answer; those beyond the length of the shorter one of its pair count `ld_alpha` (LD-DPO)."""
    return sum(logps) if ld_alpha is None else sum(logps[:shorter]) + ld_alpha * sum(logps[shorter:])


def totals(scores: Scores, ld_alpha: float | None) -> tuple[float, ...]:
    """The sums of a row's scores, in the order of `COLUMNS`."""
    shorter = min(map(len, scores))
    return tuple(total(logps, shorter, ld_alpha) for logps in scores)


def compare(rows: Sequence[Row], computed: Sequence[Scores], beta: float) -> Parity:
    """Compare the rows' `chosen_logps` and `rejected_logps` with computed ones, token by token; one row at least."""
    differences: list[float] = []
    drifts: list[float] = []
    for row, (chosen, rejected, *_) in zip(rows, computed, strict=True):
        chosen_errors = [s - c for s, c in zip(row["chosen_logps"], chosen, strict=True)]
        rejected_errors = [s - c for s, c in zip(row["rejected_logps"], rejected, strict=True)]
        differences += map(abs, chosen_errors + rejected_errors)
        drifts.append(beta * abs(sum(chosen_errors) - sum(rejected_errors)))
    return Parity(
        rows=len(rows),
        tokens=len(differences),
        mean_difference=sum(differences) / len(differences),
        max_difference=max(differences),
        margin_drift=sum(drifts) / len(drifts),
    )


def spread(rows: int, wanted: int) -> list[int]:
    """Up to `wanted` row numbers, evenly spaced over `rows`."""
    wanted = min(wanted, rows)
    return [i * rows // wanted for i in range(wanted)]


def share_of(rank: int, world: int, rows: int) -> list[int]:
    """The rows that process `rank` of `world` scores: equally many for each, so that the last start over at row 0."""
    each = math.ceil(rows / world)
    return [(rank * each + i) % rows for i in range(each)]


@dataclass(frozen=True)
class References:
    """What was found out about the references of a set of pairs, before training.

    `sums` has those of each row (see `totals`) where they were recomputed, and is None where the sampler's hold.
    """

    metrics: Mapping[str, float]
    sums: Sequence[tuple[float, ...]] | None

    @classmethod
    def of(cls, parity: Parity | None, sums: Sequence[tuple[float, ...]] | None) -> References:
        measured = parity.metrics() if parity else {}
        return cls({**measured, "references_recomputed": float(sums is not None)}, sums)

    def save(self, folder: Path) -> None:
        (folder / METRICS_NAME).write_text(json.dumps(dict(self.metrics), sort_keys=True) + "\n")
        if self.sums is not None:
            columns = [pa.array(side, pa.float32()) for side in zip(*self.sums, strict=True)]
            pq.write_table(pa.table(columns, COLUMNS[: len(columns)]), folder / TABLE_NAME)

    @classmethod
    def load(cls, folder: Path) -> References:
        metrics = json.loads((folder / METRICS_NAME).read_text())
        if not (folder / TABLE_NAME).exists():
            return cls(metrics, None)
        table = pq.read_table(folder / TABLE_NAME)
        return cls(metrics, list(zip(*(column.to_pylist() for column in table.columns), strict=True)))

    def apply(self, dataset: Dataset) -> Dataset:
        """Return `dataset` with these sums, or as it is where the sampler's hold."""
        if self.sums is None:
            return dataset
        sides = list(zip(*self.sums, strict=True))
        names = COLUMNS[: len(sides)]
        dataset = dataset.remove_columns([name for name in names if name in dataset.column_names])
        for name, side in zip(names, sides, strict=True):
            dataset = dataset.add_column(name, pa.array(side, pa.float32()))
        return dataset
