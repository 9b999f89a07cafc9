"""labeling: the labeler accepts or rejects each claim about the picture (paper, section 3.2).

Of several pictures, all come before each question, and earlier turns do not: a claim is understood without them. The
picture comes first and the claim last in every prompt, and all questions about one picture follow each other, so
that the engine computes the picture's prefix once for all of them. Answers to one instruction often make the same
claims: a question about a picture is asked once, however many of them it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import pyarrow.compute as pc

from feedback_workloads.contract import LabelingConfig, shard_uri
from feedback_workloads.engine import Engine, Prompt, Verdict
from feedback_workloads.models.families import check, family_of
from feedback_workloads.models.sources import fetch
from feedback_workloads.models.verdicts import about
from feedback_workloads.process.outcome import Outcome, check_rejected
from feedback_workloads.rows.identity import shard_of
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import CLAIMS, VERDICTS
from feedback_workloads.stages.behind_apis import APIJudge, asking, check_labeler, paid
from feedback_workloads.stages.ordered import OrderedParts, stored_table

if TYPE_CHECKING:
    import pyarrow as pa

    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore


Key = TypeVar("Key")

NEITHER: Final = "neither-yes-nor-no"
"""Reason of a rejected answer; `process.outcome.REMEDIES` says what helps."""


@dataclass(frozen=True)
class AskedAnswer:
    """The questions about one answer, in the order of its claims."""

    id: str
    candidate: int
    questions: Sequence[str]


@dataclass(frozen=True)
class Case:
    """All that is asked about one instruction's picture, and what is known of it so far."""

    asked: Sequence[AskedAnswer]
    known: dict[str, Verdict | BadRow] = field(default_factory=dict)

    @property
    def questions(self) -> dict[str, None]:
        """The different questions, in their order."""
        return {question: None for one in self.asked for question in one.questions}

    @property
    def settled(self) -> bool:
        return len(self.known) == len(self.questions)


def run(config: LabelingConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write VERDICTS for every answer of this shard that has a row of claims.

    Rejects answers that cannot be judged: their picture cannot be read, one of their questions is too long, or the
    labeler answers it neither by yes nor by no; one behind an API may refuse to. Metrics, over the claims of the other
    answers: `accepted`, the share that was, and `yes_no_mass`, the mean of p_yes + p_no.
    """
    progress.phase("reading claims")
    output_uri = shard_uri(config, shard)
    cases = read_cases(config, shard, store)
    with store.append(output_uri, VERDICTS) as parts:
        finished = parts.finished_ids()
        todo = {id: case for id, case in cases.items() if id not in finished}
        progress.start(len(cases), done=len(cases) - len(todo))
        if todo:
            instructions = store.instructions(config.instructions, shard, config.shards)
            check_verdicts = partial(check_rejected, config, most=sum(len(case.asked) for case in cases.values()))
            with (
                _labeler(config, shard, store, progress) as labeler,
                OrderedParts(parts, config.part_rows, progress, check=check_verdicts) as output,
            ):
                progress.phase("judging claims")
                judging = Judging(todo, labeler, output, config.min_yes_no_mass)
                for (id, question), verdict in labeler.yes_no(judging.questions(instructions)):
                    judging.take(id, question, verdict)
                    if isinstance(verdict, Verdict):
                        progress.count("tokens", verdict.prompt_tokens - verdict.cached_tokens)
        metrics = measure(stored_table(store, output_uri, parts.files(), VERDICTS, ["p_yes", "p_no", "accepted"]))
    counts = parts.counts() | (paid(config, shard, store) if config.api else {})
    return Outcome(parts.files(), counts, metrics)


class Labeler(Protocol):
    """A model that answers questions about pictures by yes or no, here or behind an API."""

    def about(self, images: Sequence[bytes]) -> Callable[[str], Any]:
        """What makes requests of questions about encoded pictures, all of which are shown. Both raise BadRow."""
        ...

    def yes_no(self, requests: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, Verdict | BadRow]]:
        """Verdicts in any order; BadRow where the model gives none. Reads requests as `Engine.yes_no` does."""
        ...


@contextmanager
def _labeler(config: LabelingConfig, shard: int, store: ArtifactStore, progress: Progress) -> Iterator[Labeler]:
    """The labeler, loaded or reached."""
    if config.api:
        progress.phase("asking the labeler's API")
        check_labeler(config.api, config.requests)
        with asking(config, config.api, shard, store) as api:
            yield APIJudge(api, config.api)
        return
    assert config.model, "the configuration has one of both"
    progress.phase("loading the labeler")
    family = family_of(fetch(store, config.model, config.output, progress.phase), config.model)
    check(family, "label", config.model.uri)
    with Engine.load(family, config.engine, config.precision, config.seed) as engine:
        yield ModelJudge(engine)


class ModelJudge:
    """A labeler in an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def about(self, images: Sequence[bytes]) -> Callable[[str], Prompt]:
        ask = about(self._engine.family, images)

        def prompt(question: str) -> Prompt:
            asked = ask(question)
            self._engine.check(asked)
            return asked

        return prompt

    def yes_no(self, requests: Iterable[tuple[Key, Prompt]]) -> Iterator[tuple[Key, Verdict]]:
        return self._engine.yes_no(requests)


def measure(answers: pa.Table) -> dict[str, float]:
    """Figures of the verdicts; empty where there is none."""
    p_yes, p_no, accepted = (pc.list_flatten(answers[name]) for name in ("p_yes", "p_no", "accepted"))
    if not len(accepted):
        return {}
    return {"accepted": pc.mean(accepted).as_py(), "yes_no_mass": pc.mean(pc.add(p_yes, p_no)).as_py()}


def read_cases(config: LabelingConfig, shard: int, store: ArtifactStore) -> dict[str, Case]:
    """What is asked about each of this shard's instructions, answers in the order of candidates."""
    rows = store.rows(config.claims, CLAIMS, ["id", "candidate", "questions"])
    mine = (AskedAnswer(**row) for row in rows if shard_of(row["id"], config.shards) == shard)
    ordered = sorted(mine, key=lambda one: (one.id, one.candidate))
    return {id: Case(tuple(asked)) for id, asked in groupby(ordered, key=lambda one: one.id)}


class Judging:
    """Joins questions with pictures, and verdicts with answers."""

    def __init__(
        self,
        cases: dict[str, Case],
        labeler: Labeler,
        output: OrderedParts,
        min_mass: float,
    ) -> None:
        self._cases = cases
        self._labeler = labeler
        self._output = output
        self._min_mass = min_mass

    def questions(self, instructions: Iterable[Instruction | Rejected]) -> Iterator[tuple[tuple[str, str], Any]]:
        """Every different question once, with its instruction's id; those about one picture in a row."""
        missing = dict.fromkeys(self._cases)
        for instruction in instructions:
            if instruction.id in missing:
                del missing[instruction.id]
                yield from self._about(instruction)
        for id in missing:
            self._output.begin(id, len(self._cases[id].asked))
            self._give_up(id, BadRow("missing-instruction", "the instructions have no such id any more"))

    def _about(self, instruction: Instruction | Rejected) -> Iterator[tuple[tuple[str, str], Any]]:
        id, case = instruction.id, self._cases[instruction.id]
        self._output.begin(id, len(case.asked))
        try:
            if isinstance(instruction, Rejected):
                raise BadRow(instruction.reason, instruction.detail)
            ask = self._labeler.about(instruction.images)
        except BadRow as bad:
            self._give_up(id, bad)
            return
        for question in case.questions:
            try:
                request = ask(question)
            except BadRow as bad:
                case.known[question] = bad
                continue
            yield (id, question), request
        self._settle(id)

    def take(self, id: str, question: str, verdict: Verdict | BadRow) -> None:
        """Keep the verdict on one question, and hand on the rows of an instruction with its last one."""
        self._cases[id].known[question] = checked(verdict, self._min_mass)
        self._settle(id)

    def _give_up(self, id: str, why: BadRow) -> None:
        """None of the instruction's questions can be asked."""
        case = self._cases[id]
        case.known.update(dict.fromkeys(case.questions, why))
        self._settle(id)

    def _settle(self, id: str) -> None:
        if id not in self._cases or not self._cases[id].settled:
            return
        case = self._cases.pop(id)
        for asked in case.asked:
            judged = verdicts_row(asked, case.known)
            if isinstance(judged, Rejected):
                self._output.reject(judged)
            else:
                self._output.add(judged)


def checked(verdict: Verdict | BadRow, min_mass: float) -> Verdict | BadRow:
    """The verdict, unless the labeler would rather begin its answer with something else than yes or no."""
    if isinstance(verdict, BadRow) or verdict.mass >= min_mass:
        return verdict
    return BadRow(
        NEITHER,
        f"p(yes) + p(no) is {verdict.mass:.3g}, below spec.labeling.minYesNoMass {min_mass:g}: the labeler begins its "
        "answer with something else; name a labeler that answers at once, or ask for yes or no in "
        "spec.splitting.questionTemplate",
    )


def verdicts_row(asked: AskedAnswer, known: dict[str, Verdict | BadRow]) -> dict[str, Any] | Rejected:
    """The row of VERDICTS for one answer, or why it cannot be judged."""
    found: list[Verdict] = []
    for question in asked.questions:
        match known[question]:
            case BadRow(reason=reason, detail=detail):
                return Rejected(asked.id, asked.candidate, reason, detail)
            case verdict:
                found.append(verdict)
    return {
        "id": asked.id,
        "candidate": asked.candidate,
        "p_yes": [verdict.p_yes for verdict in found],
        "p_no": [verdict.p_no for verdict in found],
        "accepted": [verdict.accepted for verdict in found],
    }
