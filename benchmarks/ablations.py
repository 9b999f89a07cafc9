"""Run the ablations of the method beside the whole method, over seeds of world and training: `make ablations`.

`python -m benchmarks.ablations 3 4 5` names the seeds. Stages that an ablation shares with another run are not run
again, so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import worlds
from benchmarks.seeds import MEASURES, SEEDS, Summary, spread, value, words

Found = dict[str, dict[int, Summary | None]]
"""Summaries by the name of the run and the seed; None where it did not reach its scores."""

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


OWN_LABELER: Final[dict[str, Any]] = {"model": {"uri": f"{worlds.WORLD}policy-labeler"}}
"""A patch that starts from the policy that has learned to judge claims as well."""
HOLISTIC: Final[dict[str, Any]] = {"splitting": {"type": "WholeAnswer"}}
TEMPERATURES: Final = ["0.2", "0.5", "0.8", "1.1", "1.4"]

ABLATIONS: Final[Mapping[str, dict[str, Any]]] = {
    "whole": {},
    "holistic": HOLISTIC,
    "labeler-of-claims": labeler("labeler-claims"),
    "holistic-labeler-of-claims": HOLISTIC | labeler("labeler-claims"),
    "labeler-weak": labeler("labeler-weak"),
    "self-aligned": OWN_LABELER | {"labeling": {"model": {"uri": None, "from": "Policy"}}},
    "self-aligned-by-labeler": OWN_LABELER,
    "four-pairs": {"pairing": {"perInstruction": 4}},
    "temperatures": {"sampling": {"temperatures": TEMPERATURES}},
    "temperatures-one-pair": {"sampling": {"temperatures": TEMPERATURES}, "pairing": {"perInstruction": 1}},
    "styles": {"sampling": {"prompts": ["Describe the picture.", "Name every object."]}},
    "no-length-balance": {"pairing": {"lengthBalance": "Disabled"}},
    "one-pass-of-half": {"instructions": {"uri": f"{worlds.WORLD}instructions-half"}},
    "one-pass": {"instructions": {"uri": f"{worlds.WORLD}instructions-all"}},
}
"""What each changes of the whole method (examples/shapes.yaml), as a merge patch of its spec.

`four-pairs` is beside those that make more pairs of the same instructions, `one-pass-of-half` beside a chain that keeps
its second iteration, `self-aligned-by-labeler` beside the policy that judges itself: the same policy and the usual
labeler.
"""

BASELINES: Final = {"baseline": "whole", "self-aligned-baseline": "self-aligned"}
"""Which run has the figures of a policy as it was before."""


def main() -> int:
    """Run all ablations for each seed; 1 where one did not reach its scores."""
    seeds = [int(text) for text in sys.argv[1:]] or list(SEEDS)
    found: Found = {name: dict.fromkeys(seeds) for name in (*ABLATIONS, "chain")}
    for seed in seeds:
        if worlds.build(seed, "--labelers"):
            for name in ABLATIONS:
                found[name][seed] = alone(name, seed)
            found["chain"][seed] = chain(seed)
        OUTPUT.mkdir(parents=True, exist_ok=True)
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
    """What a whole run gave: the policy that it keeps against the first baseline, and the pairs of all iterations."""
    folder = OUTPUT / str(seed) / "chain"
    worlds.run([worlds.on_seed(worlds.manifest(file), seed) for file in CHAIN], folder)
    found = [(worlds.summary(folder / file.stem), was_promoted(folder / file.stem)) for file in CHAIN]
    return kept([(summary, promoted) for summary, promoted in found if summary])


def kept(iterations: Sequence[tuple[Summary, bool]]) -> Summary | None:
    """The same of the iterations that have figures, each with whether it was promoted; None where none has.

    A run that promotes nothing keeps the policy it began with.
    """
    if not iterations:
        return None
    first = iterations[0][0]
    promoted = [summary for summary, was in iterations if was]
    return {
        "baseline": first["baseline"],
        "aligned": promoted[-1]["aligned"] if promoted else first["baseline"],
        "promoted": len(promoted),
        "pairs": {"count": sum(summary["pairs"]["count"] for summary, _ in iterations), "truth_agreement": None},
    }


def was_promoted(folder: Path) -> bool:
    """Whether the iteration of a run passed its gate."""
    conditions = json.loads((folder / "iteration.json").read_text())["status"]["conditions"]
    return any(one["type"] == "Promoted" and one["status"] == "True" for one in conditions)


def table(found: Found) -> Table:
    """Mean and range over the seeds of each run's pairs and of its aligned policy's figures."""
    shown = Table("run", "seeds", "pairs", "pairs right", *(name.replace("_", " ") for name in MEASURES), box=None)
    for name, run in BASELINES.items():
        begun = {seed: summary for seed, summary in found[run].items() if summary}
        shown.add_row(name, str(len(begun)), "–", "–", *figures(begun, "baseline"))
    for name, by_seed in found.items():
        there = {seed: summary for seed, summary in by_seed.items() if summary}
        pairs = spread({seed: summary["pairs"]["count"] for seed, summary in there.items()})
        right = spread({seed: summary["pairs"]["truth_agreement"] for seed, summary in there.items()})
        made = (words(pairs, "pairs"), words(right, "pairs right"))
        shown.add_row(name, str(len(there)), *made, *figures(there, "aligned"))
    return shown


def figures(there: Mapping[int, Summary], column: str) -> list[str]:
    """Mean and range of each measure in a column of the summaries."""
    return [words(spread({seed: value(one[column], name) for seed, one in there.items()}), name) for name in MEASURES]


if __name__ == "__main__":
    raise SystemExit(main())
