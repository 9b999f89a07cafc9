"""report.html of a whole run. Names and messages are untrusted text and are escaped by the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from feedback_workloads.report import charts
from feedback_workloads.report.cost import Cost, total
from feedback_workloads.report.iteration import StageRecord
from feedback_workloads.report.page import Figure, card, duration, template
from feedback_workloads.report.run import Chain, Member, chains
from feedback_workloads.report.run_summary import amount, cost_in_words, followed, page_of, processors, said, seconds
from feedback_workloads.report.series import csv_url
from feedback_workloads.report.summary import MEASURES


def render_run(members: Sequence[Member], out: Path) -> str:
    """The whole page; its links to the iterations' own are relative to `out`."""
    shown = followed(members)
    return template("run.html").render(
        names=[member.name for member in members],
        measures=shown,
        chains=[_chain(chain, number, shown, out) for number, chain in enumerate(chains(members))],
        missing=[sentence for member in members for sentence in member.missing],
        seconds=seconds(members),
        processors=processors(members),
        cost=cost_in_words(members),
        stages=_stages(members),
        held=[
            {"name": member.name, "stages": _held(member), "sum": _amounts(total(member.costs))} for member in members
        ],
    )


def _chain(chain: Chain, number: int, shown: Mapping[str, str], out: Path) -> dict[str, Any]:
    """What the template shows of a chain."""
    policies = [chain.before, *(member.summary.aligned for member in chain.members)]
    kept = chain.members.index(chain.kept) + 1 if chain.kept else None
    found = [policy and policy.to_json() for policy in policies]
    svg = charts.chain(found, kept, number)
    names = ["before", *(member.name for member in chain.members)]
    numbers = [{"policy": name, **one} for name, one in zip(names, found, strict=True) if one]
    return {
        "names": [member.name for member in chain.members],
        "said": said(chain),
        "cards": _cards(chain),
        "before": _cells(chain.before and chain.before.to_json(), shown),
        "rows": [
            {
                "name": member.name,
                "page": page_of(member, out),
                "kept": member is chain.kept,
                "cells": _cells(member.summary.aligned and member.summary.aligned.to_json(), shown),
                "pairs": member.summary.pairs,
                "outcome": member.outcome,
                "why": member.why,
            }
            for member in chain.members
        ],
        "figures": [Figure("Over the iterations", Markup(svg), CAPTION, csv_url(numbers))] if svg else [],
    }


CAPTION = (
    "Report split, with 95% bootstrap intervals over questions, each of its own figure. "
    "The last iteration that passed its gate is ringed."
)


def _cards(chain: Chain) -> list[dict[str, str]]:
    """Before the first iteration, and of the one that is kept; none where the two do not compare."""
    if chain.gain is None or chain.before is None or chain.kept is None or chain.kept.summary.aligned is None:
        return []
    before, after = chain.before.to_json(), chain.kept.summary.aligned.to_json()
    return [card(name, before[name], after[name]) for name in MEASURES if name in before and name in after]


def _cells(figures: Mapping[str, Any] | None, shown: Mapping[str, str]) -> dict[str, Any]:
    """Figures by name and how they were drawn; None for what is not there."""
    return {name: figures.get(name) if figures else None for name in (*shown, "decoding")}


def _stages(members: Sequence[Member]) -> list[str]:
    """Names of all stages, in their order."""
    return list(dict.fromkeys(stage.name for member in members for stage in member.stages))


def _held(member: Member) -> dict[str, dict[str, str]]:
    """Of each stage: how long it took, and what it held or why it held nothing."""
    return {
        stage.name: {"time": duration(stage.seconds) if stage.completion_time else "–", "note": _note(stage, held)}
        for stage, held in zip(member.stages, member.costs, strict=True)
    }


def _note(stage: StageRecord, held: Cost) -> str:
    if stage.state == "Waiting":
        return "not begun"
    state = "found finished" if stage.done and not stage.ran else "" if stage.done else stage.state.lower()
    return ", ".join(filter(None, (state, *_amounts(held))))


def _amounts(held: Cost) -> list[str]:
    """`1,234 CPU s`, and GPU seconds where there are any."""
    gpus = [f"{amount(held.gpu_seconds)} GPU s"] if held.gpu_seconds != 0 else []
    return [f"{amount(held.cpu_seconds)} CPU s", *gpus]
