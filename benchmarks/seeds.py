"""The demo over seeds of world and training, and the table of README: `make demo-seeds`.

`python -m benchmarks.seeds 3 4 5` names the seeds. One run says little: how much another world and another training
differ is in none of its intervals.
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
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "summary.json").write_text(json.dumps(over_seeds(found), indent=1) + "\n")
    Console(width=160).print(table(over_seeds(found)))
    return 0 if all(found.values()) else 1


def run(seed: int) -> Summary | None:
    """The summary of the demo on one seed; None where its world cannot be built or the run failed."""
    folder = OUTPUT / str(seed)
    if not worlds.build(seed):
        return None
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
    "aligned, as the server answers by default": lambda summary: summary["best_of_n"],
    "aligned, one sampled answer": lambda summary: ranked(summary["ranking"], 1),
    "aligned, best of N by LogRatio": lambda summary: ranked(summary["ranking"], rule="LogRatio"),
    "aligned, best of N by its likelihood": lambda summary: ranked(summary["ranking"], rule="PolicyLikelihood"),
    "baseline, one sampled answer": lambda summary: on_baseline(summary, 1),
    "baseline, best of N by its own likelihood": lambda summary: on_baseline(summary, by="baseline"),
    "baseline, best of N by the aligned policy's reward": lambda summary: on_baseline(
        summary, by="aligned", rule="LogRatio"
    ),
    "baseline, best of N by the aligned policy's likelihood": lambda summary: on_baseline(
        summary, by="aligned", rule="PolicyLikelihood"
    ),
}
"""What is compared, and where it is in summary.json; N is spec.evaluation.bestOf."""


def over_seeds(summaries: Mapping[int, Summary | None]) -> dict[str, Any]:
    """`seeds`: a row for each line of the table, with least, mean, greatest and each value by seed.

    `failed` are the seeds without figures, `ranking` how the server answers by default, by seed.
    """
    there = {seed: summary for seed, summary in summaries.items() if summary}
    return {
        "seeds": [
            {"name": name, **{of: spread({s: value(read(one), of) for s, one in there.items()}) for of in MEASURES}}
            for name, read in ROWS.items()
        ],
        "ranking": {s: {key: one["best_of_n"][key] for key in ("rule", "lambda", "n")} for s, one in there.items()},
        "failed": [seed for seed, summary in summaries.items() if not summary],
    }


def spread(values: Mapping[int, float | None]) -> dict[str, Any]:
    """Least, mean and greatest of some figures, null where there is none, and each by its seed."""
    known = [one for one in values.values() if one is not None]
    if not known:
        return {"least": None, "mean": None, "greatest": None, "by_seed": dict(values)}
    return {"least": min(known), "mean": sum(known) / len(known), "greatest": max(known), "by_seed": dict(values)}


def value(figures: Mapping[str, Any], measure: str) -> float | None:
    """A rate or a length of summary.json."""
    found = figures.get(measure)
    return found["value"] if isinstance(found, Mapping) else found


def table(found: Mapping[str, Any]) -> Table:
    """Mean and range of each line over the seeds."""
    ranking = ", ".join(f"seed {seed}: {how_ranked(one)}" for seed, one in found["ranking"].items())
    failed = f"; failed: seeds {found['failed']}" if found["failed"] else ""
    shown = Table(
        "",
        *(name.replace("_", " ") for name in MEASURES),
        box=None,
        header_style="bold",
        caption=f"mean (least–greatest) over seeds; the server's default: {ranking}{failed}",
    )
    for row in found["seeds"]:
        shown.add_row(row["name"], *(words(row[measure], measure) for measure in MEASURES))
    return shown


def how_ranked(chosen: Mapping[str, Any]) -> str:
    """`best of 8 by Regularised 0.3`, or `one answer`."""
    if chosen["n"] == 1:
        return "one answer"
    weight = f" {chosen['lambda']:g}" if chosen["lambda"] else ""
    return f"best of {chosen['n']} by {chosen['rule']}{weight}"


def words(of: Mapping[str, Any], measure: str) -> str:
    """`12.3% (10.0–14.1)`, or a number `29.1 (28.8–29.4)`."""
    if of["mean"] is None:
        return "–"
    if measure in {"mean_words", "pairs"}:
        return f"{of['mean']:.1f} ({of['least']:.1f}–{of['greatest']:.1f})"
    return f"{of['mean']:.1%} ({100 * of['least']:.1f}–{100 * of['greatest']:.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
