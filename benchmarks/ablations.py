"""Run the ablations of the method beside the whole method, over seeds of world and training: `make ablations`.

`python -m benchmarks.ablations 3 4 5` names the seeds. Stages that an ablation shares with another run are not run
again, so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import worlds
from benchmarks.seeds import MEASURES, SEEDS, Summary, spread, value, words

OUTPUT: Final = Path("build/ablations")
WHOLE: Final = Path("examples/shapes.yaml")
CHAIN: Final = sorted(Path("examples/run").glob("*.yaml"))

MEASURED_ALONE: Final[dict[str, Any]] = {
    "serving": None,
    "evaluation": {"gate": None, "bestOf": 1, "rewardOnBaseline": None},
}
"""An ablation is measured, never promoted: it has neither a gate nor an endpoint, and ranks nothing."""


def labeler(name: str) -> dict[str, Any]:
    """A patch that names another model of the world as labeler."""
    return {"labeling": {"model": {"uri": f"{worlds.WORLD}{name}"}}}


HOLISTIC: Final[dict[str, Any]] = {"splitting": {"type": "WholeAnswer"}}
TEMPERATURES: Final = ["0.2", "0.5", "0.8", "1.1", "1.4"]

ABLATIONS: Final[Mapping[str, dict[str, Any]]] = {
    "whole": {},
    "holistic": HOLISTIC,
    "labeler-of-claims": labeler("labeler-claims"),
    "holistic-labeler-of-claims": HOLISTIC | labeler("labeler-claims"),
    "labeler-weak": labeler("labeler-weak"),
    "self-alignment": labeler("policy"),
    "temperatures": {"sampling": {"temperatures": TEMPERATURES}},
    "temperatures-equal-pairs": {"sampling": {"temperatures": TEMPERATURES}, "pairing": {"perInstruction": 1}},
    "styles": {"sampling": {"prompts": ["Describe the picture.", "Name every object."]}},
    "no-length-balance": {"pairing": {"lengthBalance": "Disabled"}},
    "one-pass": {"instructions": {"uri": f"{worlds.WORLD}instructions-all"}},
}
"""What each changes of the whole method (examples/shapes.yaml), as a merge patch of its spec."""


def main() -> int:
    """Run all ablations for each seed; 1 where one did not reach its scores."""
    seeds = [int(text) for text in sys.argv[1:]] or list(SEEDS)
    found: dict[str, dict[int, Summary | None]] = {name: {} for name in (*ABLATIONS, "chain")}
    for seed in seeds:
        worlds.build(seed, "--labelers")
        for name in ABLATIONS:
            found[name][seed] = alone(name, seed)
        found["chain"][seed] = chain(seed)
        (OUTPUT / "ablations.json").write_text(json.dumps(found, indent=1) + "\n")
        Console(width=180).print(table(found))
    return 0 if all(summary for by_seed in found.values() for summary in by_seed.values()) else 1


def ablation(name: str) -> worlds.Manifest:
    """The manifest of an ablation."""
    whole = worlds.changed(worlds.manifest(WHOLE), name, MEASURED_ALONE)
    return worlds.changed(whole, name, ABLATIONS[name])


def alone(name: str, seed: int) -> Summary | None:
    """The summary of one ablation."""
    folder = OUTPUT / str(seed) / name
    worlds.run([worlds.on_seed(ablation(name), seed)], folder)
    return worlds.summary(folder)


def chain(seed: int) -> Summary | None:
    """The summary of the last promoted iteration of a whole run, with the first one's baseline."""
    folder = OUTPUT / str(seed) / "chain"
    worlds.run([worlds.on_seed(worlds.manifest(file), seed) for file in CHAIN], folder)
    finished = [worlds.summary(folder / file.stem) for file in CHAIN]
    promoted = [one for one, file in zip(finished, CHAIN, strict=True) if one and was_promoted(folder / file.stem)]
    return {**promoted[-1], "baseline": promoted[0]["baseline"], "iterations": len(promoted)} if promoted else None


def was_promoted(folder: Path) -> bool:
    """Whether the iteration of a run passed its gate."""
    conditions = json.loads((folder / "iteration.json").read_text())["status"]["conditions"]
    return any(one["type"] == "Promoted" and one["status"] == "True" for one in conditions)


def table(found: Mapping[str, Mapping[int, Summary | None]]) -> Table:
    """Mean and range over the seeds of each run's pairs and of its aligned policy's figures."""
    shown = Table("run", "seeds", "pairs", "pairs right", *(name.replace("_", " ") for name in MEASURES), box=None)
    shown.add_row("baseline", *cells(found["whole"], "baseline"))
    for name, by_seed in found.items():
        shown.add_row(name, *cells(by_seed, "aligned"))
    return shown


def cells(by_seed: Mapping[int, Summary | None], column: str) -> list[str]:
    """A row of the table; seeds that failed are not counted among its seeds."""
    there = {seed: summary for seed, summary in by_seed.items() if summary}
    pairs = spread({seed: summary["pairs"]["count"] for seed, summary in there.items()})
    right = spread({seed: summary["pairs"]["truth_agreement"] for seed, summary in there.items()})
    figures = (spread({seed: value(one[column], name) for seed, one in there.items()}) for name in MEASURES)
    return [
        str(len(there)),
        words(pairs, "mean_words"),
        words(right, "pairs right"),
        *(words(figure, name) for figure, name in zip(figures, MEASURES, strict=True)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
