"""run.json: the figures of a whole run for scripts, and the same as tables for a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from feedback_workloads.report.cost import Cost, total
from feedback_workloads.report.run import RATES, Chain, Figures, Member, Pairs, chains
from feedback_workloads.report.summary import MEASURES, cell, change, drawn, in_columns

FOLLOWED: Final = {**RATES, "mean_words": MEASURES["mean_words"]}
"""Columns of the tables. What no iteration has is not shown."""
LONGEST_REASON: Final = 100
"""Characters of a reason on a terminal; the page has all of it."""


def summarise_run(members: Sequence[Member], out: Path) -> dict[str, Any]:
    """The content of run.json. Figures that are missing are null, and it is said why; `page` is relative to `out`."""
    return {
        "chains": [
            {
                "before": chain.before and chain.before.to_json(),
                "iterations": [_iteration(member, out) for member in chain.members],
                "kept": chain.kept and chain.kept.name,
                "gain": chain.gain,
                "measured_otherwise": list(chain.measured_otherwise),
            }
            for chain in chains(members)
        ],
        "cost": total_cost(members).to_json(),
        "seconds": seconds(members),
        "processors": processors(members),
        "missing": [sentence for member in members for sentence in member.missing],
    }


def _iteration(member: Member, out: Path) -> dict[str, Any]:
    aligned, pairs = member.summary.aligned, member.summary.pairs
    return {
        "name": member.name,
        "from": member.iteration.parent,
        "outcome": member.outcome.how,
        "promoted": member.promoted,
        "why": member.why,
        "aligned": aligned and aligned.to_json(),
        "pairs": pairs.model_dump(mode="json") if pairs.count else None,
        "stages": [
            {"name": stage.name, "state": stage.state, "ran": stage.ran, "seconds": stage.seconds, **held.to_json()}
            for stage, held in zip(member.stages, member.costs, strict=True)
        ],
        "cost": total(member.costs).to_json(),
        "page": page_of(member, out),
    }


def page_of(member: Member, out: Path) -> str | None:
    """The iteration's own page as a link of a page in `out`; None where there is none."""
    page = member.folder / "report.html"
    return quote(os.path.relpath(page, out)) if page.exists() else None


def total_cost(members: Iterable[Member]) -> Cost:
    return total(cost for member in members for cost in member.costs)


def seconds(members: Iterable[Member]) -> float:
    """From the start of the first stage to the end of the last one; 0 where none has ended."""
    ended = [stage for member in members for stage in member.stages if stage.start_time and stage.completion_time]
    starts = [datetime.fromisoformat(stage.start_time) for stage in ended]
    ends = [datetime.fromisoformat(stage.completion_time) for stage in ended]
    return (max(ends) - min(starts)).total_seconds() if ended else 0.0


def processors(members: Iterable[Member]) -> list[str]:
    """Of the machines that are known, each once."""
    return list(dict.fromkeys(member.iteration.processor for member in members if member.iteration.processor))


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_text(members: Sequence[Member]) -> str:
    """The run for a terminal: a table of each chain, what it kept and gained, and what all of them cost."""
    shown = followed(members)
    parts = [f"{_table(chain, shown)}\n{one_line(' '.join(said(chain)))}" for chain in chains(members)]
    return "\n\n".join([*parts, cost_in_words(members)])


def followed(members: Iterable[Member]) -> dict[str, str]:
    """Names of the figures that any of these has, and how a person calls them."""
    some = [found for member in members for found in (member.summary.baseline, member.summary.aligned) if found]
    return {name: words for name, words in FOLLOWED.items() if any(getattr(one, name) is not None for one in some)}


def said(chain: Chain) -> list[str]:
    """What is kept of a chain and what that gained, in sentences."""
    kept, gain = chain.kept, chain.gain
    if kept is None:
        sentences = ["Nothing was promoted: the policy stays as it was."]
    elif gain is None:
        sentences = [f"The run keeps {kept.name}; what that gained is not known."]
    else:
        changes = [f"{RATES[rate]} {_gained(one)}" for rate, one in gain.items()]
        sentences = [
            f"The run keeps {kept.name}. Before {chain.members[0].name} and now: {'; '.join(changes)}.",
            "Each interval is that of its own figure; how sure the change is, they do not say.",
        ]
    if otherwise := chain.measured_otherwise:
        sentences.append(f"Not to be compared with the rest, by benchmark or by decoding: {', '.join(otherwise)}.")
    return sentences


def cost_in_words(members: Sequence[Member]) -> str:
    """What the run held, and how many stages were there already, which costs nothing but the finding."""
    held = total_cost(members)
    done = [stage for member in members for stage in member.stages if stage.done]
    found = sum(not stage.ran for stage in done)
    already = f"; {found} of the {len(done)} finished stages were there already" if found else ""
    return f"Held: {amount(held.cpu_seconds)} processor-seconds, {amount(held.gpu_seconds)} GPU-seconds{already}."


def amount(seconds: float | None) -> str:
    """`1,234`, or that it is not known."""
    return "an unknown number of" if seconds is None else f"{seconds:,.0f}"


def one_line(text: str) -> str:
    """Text from elsewhere, fit for one line of a terminal."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))


def _gained(one: Mapping[str, Any]) -> str:
    """`44.5% (39.8–49.5) → 22.0% (18.1–26.0), −51%`."""
    percent = change(one["before"]["value"], one["after"]["value"])
    return f"{cell(one['before'])} → {cell(one['after'])}" + (f", {percent}" if percent else "")


def _table(chain: Chain, shown: Mapping[str, str]) -> str:
    lines = [
        ["", *shown.values(), "drawn", "pairs", "truth agrees"],
        [f"before {one_line(chain.members[0].name)}", *_cells(chain.before, shown), "", ""],
        *(
            [one_line(member.name), *_cells(member.summary.aligned, shown), *_pairs(member.summary.pairs)]
            for member in chain.members
        ),
    ]
    outcomes = ["", "", *map(_outcome, chain.members)]
    table = in_columns(lines).splitlines()
    width = max(map(len, table))
    return "\n".join(f"{line.ljust(width)}  {words}".rstrip() for line, words in zip(table, outcomes, strict=True))


def _cells(found: Figures | None, shown: Iterable[str]) -> list[str]:
    known = found.to_json() if found else {}
    return [*(str(cell(known[name])) if name in known else "–" for name in shown), _drawn(found)]


def _drawn(found: Figures | None) -> str:
    return drawn(found.decoding.model_dump()) if found else "–"


def _pairs(pairs: Pairs) -> list[str]:
    agreement = "–" if pairs.truth_agreement is None else f"{pairs.truth_agreement:.1%}"
    return [f"{pairs.count:,}" if pairs.count else "–", agreement]


def _outcome(member: Member) -> str:
    text = one_line(": ".join(filter(None, (member.outcome.how, member.why))))
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
