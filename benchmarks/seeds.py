"""The demo over seeds of world and training, and the table of README: `make demo-seeds`.

`python -m benchmarks.seeds 3 4 5` names the seeds.

One run says little: how much another world and another training differ is in none of its intervals.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import worlds

SEEDS: Final = (3, 4, 5)
"""None of those that the world and the example were tuned on, 0 to 2."""
OUTPUT: Final = Path("build/seeds")
EXAMPLE: Final = Path("examples/shapes.yaml")
MEASURES: Final = ("response_hallucination", "recall", "expected_recall", "mean_words")

Summary = Mapping[str, Any]


def main() -> int:
    """Run the demo for each seed; 1 where one did not reach its scores."""
    seeds = [int(text) for text in sys.argv[1:]] or list(SEEDS)
    found = {seed: run(seed) for seed in seeds}
    finished = {seed: summary for seed, summary in found.items() if summary}
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "summary.json").write_text(json.dumps({"seeds": ranges(finished)}, indent=1) + "\n")
    if finished:
        Console(width=160).print(table(finished))
    for seed in found.keys() - finished.keys():
        print(f"seed {seed}: failed; its output is above", file=sys.stderr)
    return 0 if len(finished) == len(seeds) else 1


def run(seed: int) -> Summary | None:
    """The summary of the demo on one seed."""
    worlds.build(seed)
    folder = OUTPUT / str(seed)
    worlds.run([worlds.on_seed(worlds.manifest(EXAMPLE), seed)], folder)
    return worlds.summary(folder)


def ranked(rows: Sequence[Mapping[str, Any]], n: int | None = None, **named: str) -> Mapping[str, Any]:
    """The report-split figures of the row with these names, at N or at the greatest there is."""
    n = n or max(row["n"] for row in rows)
    found: Mapping[str, Any] = next(
        row["report"] for row in rows if row["n"] == n and all(row[key] == value for key, value in named.items())
    )
    return found


def on_baseline(summary: Summary, n: int | None = None, **named: str) -> Mapping[str, Any]:
    """The same of the baseline's own answers."""
    return ranked(summary["reward_on_baseline"], n, **named)


ROWS: Final[Mapping[str, Callable[[Summary], Mapping[str, Any]]]] = {
    "baseline": lambda summary: summary["baseline"],
    "aligned": lambda summary: summary["aligned"],
    "aligned, best of N as chosen": lambda summary: summary["best_of_n"],
    "aligned, one sampled answer": lambda summary: ranked(summary["ranking"], 1),
    "baseline, best of N by its own likelihood": lambda summary: summary["baseline_best_of_n"],
    "baseline, one sampled answer": lambda summary: on_baseline(summary, 1),
    "baseline's best of N by the aligned policy's reward": lambda summary: on_baseline(
        summary, by="aligned", rule="LogRatio"
    ),
    "baseline's best of N by the aligned policy's likelihood": lambda summary: on_baseline(
        summary, by="aligned", rule="PolicyLikelihood"
    ),
}
"""What is compared, and where it is in summary.json."""


def ranges(summaries: Mapping[int, Summary]) -> list[dict[str, Any]]:
    """A row for each line of the table: least, mean and greatest of each measure over the seeds, and the figures."""
    rows = []
    for name, read in ROWS.items():
        values = {
            measure: {seed: value(read(summary), measure) for seed, summary in summaries.items()}
            for measure in MEASURES
        }
        rows.append({"name": name, **{measure: spread(of) for measure, of in values.items()}})
    return rows


def spread(values: Mapping[int, float | None]) -> dict[str, Any]:
    """Least, mean and greatest of some figures, and each by its seed."""
    known = [one for one in values.values() if one is not None]
    if not known:
        return {"least": None, "mean": None, "greatest": None, "by_seed": dict(values)}
    return {"least": min(known), "mean": sum(known) / len(known), "greatest": max(known), "by_seed": dict(values)}


def value(figures: Mapping[str, Any], measure: str) -> float | None:
    """A rate or a length of summary.json."""
    found = figures.get(measure)
    return found["value"] if isinstance(found, Mapping) else found


def table(summaries: Mapping[int, Summary]) -> Table:
    """Mean and range of each line over the seeds."""
    shown = Table("", *(name.replace("_", " ") for name in MEASURES), box=None, header_style="bold")
    for row in ranges(summaries):
        shown.add_row(row["name"], *(words(row[measure], measure) for measure in MEASURES))
    return shown


def words(of: Mapping[str, Any], measure: str) -> str:
    """`12.3% (10.0–14.1)`, or a length `29.1 (28.8–29.4)`."""
    if of["mean"] is None:
        return "–"
    if measure == "mean_words":
        return f"{of['mean']:.1f} ({of['least']:.1f}–{of['greatest']:.1f})"
    return f"{of['mean']:.1%} ({100 * of['least']:.1f}–{100 * of['greatest']:.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
