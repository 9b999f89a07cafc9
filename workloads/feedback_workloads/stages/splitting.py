"""splitting: each answer divided into claims, each claim turned into one yes/no question (paper, section 3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from feedback_workloads.contract import LLMSplitter, SentenceSplitter, SplittingConfig, WholeAnswer, shard_uri
from feedback_workloads.method.splitting import (
    CONVERT_PROMPT,
    DIVIDE_PROMPT,
    Unparsable,
    as_questions,
    bullets,
    parse_bullets,
    question_of,
    sentences,
    whole,
)
from feedback_workloads.models.families import check, family_of
from feedback_workloads.models.sources import fetch
from feedback_workloads.process.outcome import Outcome, check_rejected
from feedback_workloads.rows.identity import row_seed, shard_of
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import CLAIMS, SAMPLES
from feedback_workloads.stages.ordered import OrderedParts, stored_table

if TYPE_CHECKING:
    from feedback_workloads.engine import Draw, Engine, Prompt, Sampled
    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore


@dataclass(frozen=True)
class Sample:
    """One answer to one question."""

    id: str
    candidate: int
    question: str
    answer: str


AnswersById = Mapping[str, Sequence[Sample]]
"""The answers to each instruction, by its id."""


def run(config: SplittingConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write CLAIMS for every answer to this shard's instructions.

    Rejects answers that the splitter's model could not divide. Metrics: `mean_claims` of an answer.
    """
    progress.phase("reading answers")
    output_uri = shard_uri(config, shard)
    answers = read_answers(config, shard, store)
    with store.append(output_uri, CLAIMS) as parts:
        finished = parts.finished_ids()
        todo = {id: samples for id, samples in answers.items() if id not in finished}
        progress.start(len(answers), done=len(answers) - len(todo))
        if todo:
            check_claims = partial(check_rejected, config, most=sum(map(len, answers.values())))
            with OrderedParts(parts, config.part_rows, progress, check=check_claims) as output:
                divide(config, todo, output, store, progress)
        claims = stored_table(store, output_uri, parts.files(), CLAIMS, ["claims"])["claims"]
    metrics = {"mean_claims": pc.mean(pc.list_value_length(claims)).as_py()} if len(claims) else {}
    return Outcome(parts.files(), parts.counts(), metrics)


def read_answers(config: SplittingConfig, shard: int, store: ArtifactStore) -> AnswersById:
    """The answers to this shard's instructions, in the order of ids and candidates."""
    rows = store.rows(config.samples, SAMPLES, ["id", "candidate", "question", "answer"])
    mine = (Sample(**row) for row in rows if shard_of(row["id"], config.shards) == shard)
    ordered = sorted(mine, key=lambda sample: (sample.id, sample.candidate))
    return {id: tuple(samples) for id, samples in groupby(ordered, key=lambda sample: sample.id)}


def divide(
    config: SplittingConfig, answers: AnswersById, output: OrderedParts, store: ArtifactStore, progress: Progress
) -> None:
    """Divide every answer as the configured splitter does."""
    match config.splitter:
        case SentenceSplitter(language=language):
            divide_by_rule(partial(sentences, language=language), config.question_template, answers, output)
        case WholeAnswer():
            divide_by_rule(whole, config.question_template, answers, output)
        case LLMSplitter() as splitter:
            from feedback_workloads.engine import Engine

            progress.phase("loading the splitter's model")
            family = family_of(fetch(store, splitter.model, config.output, progress.phase), splitter.model)
            check(family, "split", splitter.model.uri)
            with Engine.load(family, config.engine, config.precision, config.seed) as engine:
                progress.phase("dividing answers")
                for answer in LLMDivider(engine, splitter, config.seed, output).divide(answers):
                    progress.count("tokens", len(answer.token_ids))


def claims_row(sample: Sample, claims: Sequence[str], questions: Sequence[str]) -> dict[str, Any]:
    """The row of CLAIMS for one answer."""
    return {"id": sample.id, "candidate": sample.candidate, "claims": claims, "questions": questions}


def divide_by_rule(
    rule: Callable[[str], Sequence[str]], template: str, answers: AnswersById, output: OrderedParts
) -> None:
    """Divide answers without a model; questions come from the template."""
    for id, samples in answers.items():
        output.begin(id, len(samples))
        for sample in samples:
            claims = rule(sample.answer)
            output.add(claims_row(sample, claims, [question_of(claim, template) for claim in claims]))


@dataclass(frozen=True)
class Step:
    """What the model is asked next about an answer: to list its claims or, once they are known, a question for each."""

    sample: Sample
    claims: tuple[str, ...] = ()
    attempt: int = 0

    @property
    def converts(self) -> bool:
        return bool(self.claims)

    @property
    def text(self) -> str:
        if self.converts:
            return CONVERT_PROMPT.format(claims=bullets(self.claims))
        return DIVIDE_PROMPT.format(question=self.sample.question, answer=self.sample.answer)


class LLMDivider:
    """Asks a text model twice: for an answer's claims, then for one question a claim.

    A list that does not parse, was cut at the length limit, or does not match its claims is asked for again with
    another seed, `attempts` times in all; then the answer is rejected. Nothing is cut or dropped to make it fit.
    """

    def __init__(self, engine: Engine, splitter: LLMSplitter, seed: int, output: OrderedParts) -> None:
        self._engine = engine
        self._splitter = splitter
        self._seed = seed
        self._output = output
        self._next = deque[Step]()

    def divide(self, answers: AnswersById) -> Iterator[Sampled]:
        """Divide every answer; yields what the model says on the way."""
        requests = filter(None, map(self._request, _Queue(self._next, self._first_steps(answers))))
        for step, answer in self._engine.sample(requests, self._splitter.decoding):
            self._follow(step, answer)
            yield answer

    def _first_steps(self, answers: AnswersById) -> Iterator[Step]:
        for id, samples in answers.items():
            self._output.begin(id, len(samples))
            yield from map(Step, samples)

    def _request(self, step: Step) -> tuple[Step, Prompt, Draw] | None:
        """What to ask the model; None where it is too long to ask."""
        from feedback_workloads.engine import Draw

        prompt, sample = self._engine.family.text_prompt(step.text), step.sample
        try:
            self._engine.check(prompt)
        except BadRow as bad:
            self._reject(sample, bad.reason, bad.detail)
            return None
        name = f"{sample.id}\0{'questions' if step.converts else 'claims'}\0{step.attempt}"
        return step, prompt, Draw(row_seed(self._seed, name, sample.candidate), self._splitter.decoding.temperature)

    def _follow(self, step: Step, answer: Sampled) -> None:
        """Go on from what the model said: to the questions, to another attempt, or to the end."""
        try:
            if answer.finish_reason == "length":
                raise Unparsable(
                    f"the list is longer than spec.splitting.llm.maxNewTokens {self._splitter.decoding.max_new_tokens}"
                )
            items = parse_bullets(self._said(answer))
            if step.converts:
                self._output.add(claims_row(step.sample, step.claims, as_questions(items, step.claims)))
            elif items:
                self._next.append(Step(step.sample, items))
            else:
                self._output.add(claims_row(step.sample, (), ()))
        except Unparsable as error:
            if step.attempt + 1 < self._splitter.attempts:
                self._next.append(replace(step, attempt=step.attempt + 1))
            else:
                reason = "claim-question-mismatch" if step.converts else "unparsable-claims"
                self._reject(step.sample, reason, str(error))

    def _said(self, answer: Sampled) -> str:
        try:
            return self._engine.family.answer(answer.token_ids)
        except BadRow as bad:
            raise Unparsable(bad.detail) from bad

    def _reject(self, sample: Sample, reason: str, detail: str) -> None:
        self._output.reject(Rejected(sample.id, sample.candidate, reason, detail))


class _Queue(Iterator[Step]):
    """Steps that follow from earlier ones, before those that begin something new. It may end and go on later."""

    def __init__(self, following: deque[Step], new: Iterable[Step]) -> None:
        self._following = following
        self._new = iter(new)

    def __next__(self) -> Step:
        return self._following.popleft() if self._following else next(self._new)
