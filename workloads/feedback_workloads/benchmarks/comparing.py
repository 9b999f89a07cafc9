"""`python -m feedback_workloads.benchmarks.comparing`: models on one benchmark, side by side, with paired tests.

Each was judged by `feedback evaluate` into a folder of its own. The first is what the others are compared with: for
each metric the difference, its 95% interval, and how probable a difference as large is between models that are the
same. Questions are resampled for the interval and, for the test, have their two answers exchanged at random
(approximate randomization: Noreen, 1989; the bootstrap: Efron and Tibshirani, 1993), since what makes a question hard
makes it hard for both. Probabilities are corrected for their number by Holm's method (1979).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feedback_workloads.benchmarks.official import Share, Shares, shown
from feedback_workloads.contract import BadInput
from feedback_workloads.method.statistics import bootstrap, exchanges, interval
from feedback_workloads.process.commands import ended, run
from feedback_workloads.rows.json_files import read_text

SHARES: Final = "shares.json"
METRICS: Final = "metrics.json"
DRAWS: Final = 4_000
SEED: Final = 0
ALIKE: Final = ("benchmark", "options", "truth", "judge")
"""What has to be the same in metrics.json for numbers to stand beside each other."""

Table = NDArray[np.float64]
"""Parts and wholes, (questions, metrics, 2)."""


@dataclass(frozen=True)
class Evaluated:
    """One model's folder: its name, what metrics.json says, and the shares of its answers."""

    name: str
    told: Mapping[str, Any]
    shares: Mapping[str, Mapping[str, tuple[float, float]]]

    @property
    def questions(self) -> frozenset[str]:
        return frozenset(item for of in self.shares.values() for item in of)


@dataclass(frozen=True)
class Difference:
    """A model's `metric` less that of the first, its 95% interval, and the corrected probability `p`.

    None where one of them is 0 of 0.
    """

    model: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as Markdown, and write it as JSON where a file is named."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.benchmarks.comparing", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, help="folders of `feedback evaluate --out`; the first is compared with"
    )
    parser.add_argument("--out", type=Path, help="file for the same as JSON")
    given = parser.parse_args(arguments)
    return ended("compare", partial(_compare, given.folders, given.out))


def _compare(folders: Sequence[Path], out: Path | None) -> None:
    if len(folders) < 2:
        raise BadInput(f"there is nothing to compare {folders[0]} with; name two folders or more")
    models = [read(folder) for folder in folders]
    check(models)
    differences = compared(models)
    if out is not None:
        numbers = {one.name: one.told["metrics"] for one in models}
        found = {"metrics": numbers, "differences": [asdict(one) for one in differences]}
        out.write_text(f"{json.dumps(found, indent=2)}\n", encoding="utf-8")
    sys.stdout.write(table(models, differences))


def to_json(shares: Shares) -> dict[str, dict[str, list[float]]]:
    """The content of shares.json: by metric and question, the sums of parts and of wholes of its answers."""
    return {metric: {item: list(pair) for item, pair in _summed(of).items()} for metric, of in shares.items()}


def _summed(shares: Sequence[Share]) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {}
    for one in shares:
        part, whole = sums.get(one.item, (0.0, 0.0))
        sums[one.item] = part + one.part, whole + one.whole
    return sums


def read(folder: Path) -> Evaluated:
    """What `feedback evaluate` left in a folder. Raises BadInput where that is not all there."""
    for name in (METRICS, SHARES):
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: there is no {name}; name a folder that `feedback evaluate --out` has written")
    shares = {
        metric: {item: (part, whole) for item, (part, whole) in of.items()}
        for metric, of in json.loads(read_text(folder / SHARES)).items()
    }
    if not shares:
        raise BadInput(f"{folder}: no answer was judged yet; give the filled-in sheet to `feedback evaluate` first")
    return Evaluated(str(folder), json.loads(read_text(folder / METRICS)), shares)


def check(models: Sequence[Evaluated]) -> None:
    """Raise BadInput where numbers cannot stand beside each other."""
    first = models[0]
    for other in models[1:]:
        for field in ALIKE:
            one, two = first.told.get(field), other.told.get(field)
            if one != two:
                raise BadInput(
                    f"{other.name}: {field} in {METRICS} is {two!r}, where {first.name} has {one!r}; numbers compare "
                    "only where they are made alike; evaluate one of them anew"
                )
        if lacking := first.questions ^ other.questions:
            raise BadInput(
                f"{other.name}: {len(lacking)} questions, such as {min(lacking)!r}, are answered by only one of it and "
                f"{first.name}; evaluate answers to the same questions"
            )


def compared(models: Sequence[Evaluated]) -> list[Difference]:
    """Each model but the first, with the first, in each metric that all have shares of."""
    first = models[0]
    metrics = [name for name in first.shares if all(name in other.shares for other in models)]
    questions = sorted(first.questions)
    tables = [_table(model, metrics, questions) for model in models]
    found = [
        one
        for other, theirs in zip(models[1:], tables[1:], strict=True)
        for one in _differences(other.name, metrics, tables[0], theirs)
    ]
    return holm(found)


def _table(model: Evaluated, metrics: Sequence[str], questions: Sequence[str]) -> Table:
    nothing = (0.0, 0.0)
    rows = [[model.shares[metric].get(question, nothing) for metric in metrics] for question in questions]
    return np.array(rows, dtype=np.float64).reshape(len(questions), len(metrics), 2)


def _differences(model: str, metrics: Sequence[str], base: Table, other: Table) -> list[Difference]:
    """With the plain probability of each."""
    both = np.stack([base, other], axis=-1).reshape(len(base), -1)
    values = _less(both.sum(axis=0, keepdims=True))[0]
    resampled = _less(bootstrap(both, DRAWS, SEED))
    exchanged = _less(_exchanged(base, other))
    found = []
    for number, metric in enumerate(metrics):
        value = float(values[number])
        if np.isnan(value):
            found.append(Difference(model, metric, None, None, None, None))
            continue
        low, high = interval(resampled[:, number][~np.isnan(resampled[:, number])], widest=(-np.inf, np.inf))
        as_large = np.count_nonzero(np.abs(exchanged[:, number]) >= abs(value) - 1e-12)
        found.append(Difference(model, metric, value, low, high, float((1 + as_large) / (1 + DRAWS))))
    return found


def _exchanged(base: Table, other: Table) -> Table:
    """The sums of both, as `_less` takes them, in each of DRAWS draws of the questions whose answers are exchanged."""
    moved = exchanges((other - base).reshape(len(base), -1), DRAWS, SEED)
    sums = np.stack([base.sum(axis=0).ravel() + moved, other.sum(axis=0).ravel() - moved], axis=-1)
    return sums.reshape(DRAWS, -1)


def _less(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients of the second model less the first's, (rows, metrics); NaN of 0 of 0.

    A row has metrics, of each the part and the whole, and of each of these the two models'.
    """
    parts = sums.reshape(len(sums), -1, 2, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = parts[:, :, 0] / parts[:, :, 1]
    differences: NDArray[np.float64] = rates[:, :, 1] - rates[:, :, 0]
    return differences


def holm(found: Sequence[Difference]) -> list[Difference]:
    """The same with probabilities that hold for all together."""
    ordered = sorted((one for one in found if one.p is not None), key=lambda one: one.p or 0.0)
    corrected: dict[tuple[str, str], float] = {}
    least = 0.0
    for rank, one in enumerate(ordered):
        least = min(1.0, max(least, (len(ordered) - rank) * (one.p or 0.0)))
        corrected[one.model, one.metric] = least
    return [Difference(**{**asdict(one), "p": corrected.get((one.model, one.metric))}) for one in found]


def table(models: Sequence[Evaluated], differences: Sequence[Difference]) -> str:
    """Markdown: a row a metric, a column a model, and beside all but the first its difference."""
    by_place = {(one.model, one.metric): one for one in differences}
    first, *others = [one.name for one in models]
    head = [models[0].told["benchmark"], first, *(cell for name in others for cell in (name, "difference (95%)", "p"))]
    lines = [head, ["---", *("---:" for _ in head[1:])]]
    for metric, value in models[0].told["metrics"].items():
        cells = [metric, shown(value)]
        for other in models[1:]:
            cells += [shown(other.told["metrics"].get(metric)), *_told(by_place.get((other.name, metric)))]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _told(one: Difference | None) -> tuple[str, str]:
    if one is None or one.value is None:
        return "", ""
    return f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})", f"{one.p:.4f}"


if __name__ == "__main__":
    run(main)
