"""A whole run: iterations, each of which may start from what another has promoted, and what all of them gained.

It is made from the folders that hold the iterations' own reports, and reads nothing else. What is missing is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import FiniteFloat, ValidationError

from feedback_workloads.contract import BadInput
from feedback_workloads.report.cost import Cost, cost
from feedback_workloads.report.iteration import Ending, Iteration, MetadataRecord, Partial, StageRecord
from feedback_workloads.report.summary import MEASURES

RATES: Final = {name: words for name, words in MEASURES.items() if name != "mean_words"}
"""Shares that are followed over the iterations, and how a person calls them."""

Rate = Mapping[str, float | None]


class Interval(Partial):
    """A rate with its 95% interval; all None where it is undefined."""

    value: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None


class Drawing(Partial):
    temperature: FiniteFloat
    top_p: FiniteFloat = 1.0
    max_new_tokens: int | None = None


class Figures(Partial):
    """The figures of one policy, and how its answers were drawn."""

    response_hallucination: Interval
    mention_hallucination: Interval
    recall: Interval
    expected_recall: Interval | None = None
    accuracy: Interval | None = None
    f1: Interval | None = None
    mean_words: FiniteFloat
    decoding: Drawing

    def to_json(self) -> dict[str, Any]:
        """As summary.json has them, without what is not there."""
        return self.model_dump(mode="json", exclude={name for name in RATES if getattr(self, name) is None})


class Pairs(Partial):
    count: int = 0
    truth_agreement: FiniteFloat | None = None


class Summary(Partial):
    """What the run needs of an iteration's summary.json."""

    baseline: Figures | None = None
    aligned: Figures | None = None
    pairs: Pairs = Pairs()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One iteration of a run, as far as its folder tells; `missing` says in sentences what could not be read."""

    folder: Path
    iteration: Iteration
    summary: Summary
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.iteration.metadata.name

    @property
    def stages(self) -> tuple[StageRecord, ...]:
        return self.iteration.status.stages

    @property
    def costs(self) -> list[Cost]:
        """Of each stage, in their order."""
        return [cost(self.iteration, stage) for stage in self.stages]

    @property
    def promoted(self) -> bool:
        """Whether it passed its gate, whatever became of its endpoint."""
        return self.iteration.ending.kept == self.name

    @property
    def outcome(self) -> Ending:
        return self.iteration.ending

    @property
    def without_figures(self) -> str:
        """Why there are no figures of it; empty where there are, or where its outcome says it."""
        if self.summary.aligned or self.outcome.how in ("evaluated", "not begun", "stalled", "not finished"):
            return ""
        return " ".join((*self.missing, *self.summary.missing)) or "Its summary has no figures."

    @property
    def why(self) -> str:
        """Why it ended so, and why there are no figures of it; empty where neither needs saying."""
        ended = "" if self.outcome.how == "promoted" else self.outcome.why
        return ": ".join(filter(None, (ended, self.without_figures)))


@dataclass(frozen=True)
class Chain:
    """Iterations each of which starts from what the one before it has promoted."""

    members: tuple[Member, ...]

    @property
    def before(self) -> Figures | None:
        """Of the policy that the first one starts from."""
        return self.members[0].summary.baseline

    @property
    def kept(self) -> Member | None:
        """The one that was promoted last: its policy is what the chain leaves."""
        return next((member for member in reversed(self.members) if member.promoted), None)

    @property
    def measured_otherwise(self) -> tuple[str, ...]:
        """Names of those that were scored on another benchmark, or under another decoding, than the first baseline."""
        if self.before is None:
            return ()
        scale = _scale(self.members[0], self.before)
        scored = [(member, member.summary.aligned) for member in self.members if member.summary.aligned]
        return tuple(member.name for member, found in scored if _scale(member, found) != scale)

    @property
    def gain(self) -> dict[str, dict[str, Any]] | None:
        """Each rate before the first iteration and after the one that is kept, and by what share it changed.

        None where nothing was promoted, or what was cannot be compared. Both intervals are over questions, each by
        itself: how sure the change is, the figures of two policies do not tell.
        """
        kept, before = self.kept, self.before
        if kept is None or before is None or kept.summary.aligned is None or kept.name in self.measured_otherwise:
            return None
        was, became = before.to_json(), kept.summary.aligned.to_json()
        return {
            rate: {"before": was[rate], "after": became[rate], "relative_change": _change(was[rate], became[rate])}
            for rate in RATES
            if rate in was and rate in became
        }


def _scale(member: Member, figures: Figures) -> tuple[Any, Drawing]:
    """What figures must have in common to be compared."""
    return member.iteration.given("evaluation", "benchmarks", 0), figures.decoding


def _change(before: Rate, after: Rate) -> float | None:
    """By what share a rate grew; negative where it became less, None where that cannot be told."""
    if not before["value"] or after["value"] is None:
        return None
    return after["value"] / before["value"] - 1


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(folders: Iterable[Path]) -> list[Member]:
    """The iterations of these folders, in their order. Raises nothing: each says what of it could not be read."""
    found: dict[str, Member] = {}
    for member in map(_member, folders):
        first = found.get(member.name)
        found[member.name] = _without(member, first) if first else member
    return list(found.values())


def _without(left_out: Member, first: Member) -> Member:
    told = f"{left_out.folder} is left out: {first.folder} is of an iteration of the same name, {first.name}."
    return replace(first, missing=(*first.missing, told))


def _member(folder: Path) -> Member:
    iteration, summary, missing = Iteration(metadata=MetadataRecord(name=folder.name or str(folder))), Summary(), []
    try:
        iteration = Iteration.read(folder / "iteration.json")
    except BadInput as error:
        missing.append(f"{error}.")
    file = folder / "summary.json"
    try:
        summary = Summary.model_validate_json(file.read_bytes())
    except OSError as error:
        missing.append(f"cannot read the summary {file}: {error.strerror}.")
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        missing.append(f"{file} is not the summary of an iteration: {details}.")
    return Member(folder, iteration, summary, tuple(missing))


def chains(members: Sequence[Member]) -> list[Chain]:
    """Every way from an iteration that follows none of these to one that none of these follows.

    Where two follow the same one, their chains have a beginning in common.
    """
    by_name = {member.name: member for member in members}
    followed = {member.iteration.parent for member in members}
    ways = [_way(member, by_name) for member in members if member.name not in followed]
    reached = {member.name for way in ways for member in way}
    ways += [(member,) for member in members if member.name not in reached]  # they follow each other in a circle
    return [Chain(way) for way in ways]


def _way(last: Member, by_name: Mapping[str, Member]) -> tuple[Member, ...]:
    """The iterations that lead to this one, and itself."""
    way = [last]
    while (parent := by_name.get(way[0].iteration.parent or "")) and parent not in way:
        way.insert(0, parent)
    return tuple(way)
