"""Run the ablations of the method beside the whole method, and print what each did: `make ablations`.

Stages that an ablation shares with the whole method are not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

EXAMPLES: Final = (Path("examples/shapes.yaml"), *sorted(Path("examples/ablations").glob("*.yaml")))
OUTPUT: Final = Path("build/ablations")


def main() -> int:
    """Run all examples; 1 where one did not reach its scores."""
    summaries = {file.stem: run(file) for file in EXAMPLES}
    (OUTPUT / "ablations.json").write_text(json.dumps(summaries, indent=1) + "\n")
    Console(width=180).print(table(summaries))
    return 0 if all(summaries.values()) else 1


def run(file: Path) -> dict[str, Any]:
    """The summary of one example; empty where it did not reach its scores."""
    out = OUTPUT / file.stem
    summary = out / "summary.json"
    summary.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "feedback_operator.cli", "run", str(file), "--out", str(out)], check=False)
    found: dict[str, Any] = json.loads(summary.read_text()) if summary.exists() else {}
    return found if found.get("aligned") else {}


def table(summaries: dict[str, dict[str, Any]]) -> Table:
    shown = Table(
        "run",
        "pairs",
        "pairs right",
        "baseline",
        "aligned",
        "recall",
        "words",
        "best of 8",
        "words",
        box=None,
        header_style="bold",
    )
    for name, summary in summaries.items():
        if not summary:
            shown.add_row(name, "failed")
            continue
        baseline, aligned, best = summary["baseline"], summary["aligned"], summary["best_of_n"]
        shown.add_row(
            name,
            str(summary["pairs"]["count"]),
            f"{summary['pairs']['truth_agreement']:.3f}",
            rate(baseline, "response_hallucination"),
            rate(aligned, "response_hallucination"),
            rate(aligned, "recall"),
            f"{aligned['mean_words']:.1f}",
            rate(best, "response_hallucination"),
            f"{best['mean_words']:.1f}",
        )
    return shown


def rate(measured: dict[str, Any], name: str) -> str:
    value = measured[name]
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
