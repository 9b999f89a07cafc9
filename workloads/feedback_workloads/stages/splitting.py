"""splitting: each answer divided into claims, each claim turned into one yes/no question (paper, section 3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.compute as pc

from feedback_workloads.apis.asking import Queue
from feedback_workloads.apis.replies import TRUNCATED
from feedback_workloads.contract import (
    APISplitter,
    Decoding,
    LLMSplitter,
    SentenceSplitter,
    SplittingConfig,
    WholeAnswer,
    shard_uri,
)
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
from feedback_workloads.stages.behind_apis import APIWriter, Written, asking, check_splitter, paid
from feedback_workloads.stages.ordered import OrderedParts, stored_table

if TYPE_CHECKING:
    from feedback_workloads.engine import Draw, Engine, Prompt
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
                divide(config, todo, output, store, progress, shard=shard)
        claims = stored_table(store, output_uri, parts.files(), CLAIMS, ["claims"])["claims"]
    metrics = {"mean_claims": pc.mean(pc.list_value_length(claims)).as_py()} if len(claims) else {}
    counts = parts.counts()
    if isinstance(config.splitter, APISplitter):
        counts |= paid(config, shard, store)
    return Outcome(parts.files(), counts, metrics)


def read_answers(config: SplittingConfig, shard: int, store: ArtifactStore) -> AnswersById:
    """The answers to this shard's instructions, in the order of ids and candidates."""
    rows = store.rows(config.samples, SAMPLES, ["id", "candidate", "question", "answer"])
    mine = (Sample(**row) for row in rows if shard_of(row["id"], config.shards) == shard)
    ordered = sorted(mine, key=lambda sample: (sample.id, sample.candidate))
    return {id: tuple(samples) for id, samples in groupby(ordered, key=lambda sample: sample.id)}


def divide(
    config: SplittingConfig,
    answers: AnswersById,
    output: OrderedParts,
    store: ArtifactStore,
    progress: Progress,
    *,
    shard: int,
) -> None:
    """Divide every answer as the configured splitter does."""
    match config.splitter:
        case SentenceSplitter(language=language):
            divide_by_rule(partial(sentences, language=language), config.question_template, answers, output)
        case WholeAnswer():
            divide_by_rule(whole, config.question_template, answers, output)
        case LLMSplitter() | APISplitter() as splitter:
            with _writer(config, splitter, shard, store, progress) as writer:
                progress.phase("dividing answers")
                for tokens in LLMDivider(writer, splitter, config.seed, output).divide(answers):
                    progress.count("tokens", tokens)


class Writer(Protocol):
    """A model that is asked in words, here or behind an API."""

    def prompt(self, text: str) -> Any:
        """What asks it. Raises BadRow where the text is too long."""
        ...

    def write(
        self, requests: Iterable[tuple[Step, Any, Draw]], decoding: Decoding
    ) -> Iterator[tuple[Step, Written | BadRow]]:
        """What it says, as it comes; BadRow where that is no whole answer. Reads requests as `Engine.sample` does."""
        ...


@contextmanager
def _writer(
    config: SplittingConfig,
    splitter: LLMSplitter | APISplitter,
    shard: int,
    store: ArtifactStore,
    progress: Progress,
) -> Iterator[Writer]:
    """The splitter's model, loaded or reached."""
    if isinstance(splitter, APISplitter):
        progress.phase("asking the splitter's API")
        check_splitter(splitter.api, config.requests)
        with asking(config, splitter.api, shard, store) as api:
            yield APIWriter(api, splitter.api)
        return
    from feedback_workloads.engine import Engine

    progress.phase("loading the splitter's model")
    family = family_of(fetch(store, splitter.model, config.output, progress.phase), splitter.model)
    check(family, "split", splitter.model.uri)
    with Engine.load(family, config.engine, config.precision, config.seed) as engine:
        yield ModelWriter(engine)


class ModelWriter:
    """A model in an engine that is asked in words."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prompt(self, text: str) -> Prompt:
        prompt = self._engine.family.text_prompt(text)
        self._engine.check(prompt)
        return prompt

    def write(
        self, requests: Iterable[tuple[Step, Prompt, Draw]], decoding: Decoding
    ) -> Iterator[tuple[Step, Written | BadRow]]:
        for step, answer in self._engine.sample(requests, decoding):
            try:
                if answer.finish_reason == "length":
                    raise BadRow(TRUNCATED, f"{len(answer.token_ids)} tokens")
                yield step, Written(self._engine.family.answer(answer.token_ids), len(answer.token_ids))
            except BadRow as bad:
                yield step, bad


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

    def __init__(self, writer: Writer, splitter: LLMSplitter | APISplitter, seed: int, output: OrderedParts) -> None:
        self._writer = writer
        self._splitter = splitter
        self._seed = seed
        self._output = output
        self._next = deque[Step]()

    def divide(self, answers: AnswersById) -> Iterator[int]:
        """Divide every answer; yields how many tokens the model says on the way."""
        requests = filter(None, map(self._request, Queue(self._next, self._first_steps(answers))))
        for step, said in self._writer.write(requests, self._splitter.decoding):
            self._follow(step, said)
            yield 0 if isinstance(said, BadRow) else said.tokens

    def _first_steps(self, answers: AnswersById) -> Iterator[Step]:
        for id, samples in answers.items():
            self._output.begin(id, len(samples))
            yield from map(Step, samples)

    def _request(self, step: Step) -> tuple[Step, Any, Draw] | None:
        """What to ask the model; None where it is too long to ask."""
        from feedback_workloads.engine import Draw

        sample = step.sample
        try:
            prompt = self._writer.prompt(step.text)
        except BadRow as bad:
            self._reject(sample, bad.reason, bad.detail)
            return None
        name = f"{sample.id}\0{'questions' if step.converts else 'claims'}\0{step.attempt}"
        return step, prompt, Draw(row_seed(self._seed, name, sample.candidate), self._splitter.decoding.temperature)

    def _follow(self, step: Step, said: Written | BadRow) -> None:
        """Go on from what the model said: to the questions, to another attempt, or to the end."""
        try:
            items = parse_bullets(self._whole(said))
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

    def _whole(self, said: Written | BadRow) -> str:
        """The text of a whole answer; where there is none, another one is asked for."""
        if not isinstance(said, BadRow):
            return said.text
        if said.reason == TRUNCATED:
            limit = self._splitter.decoding.max_new_tokens
            raise Unparsable(f"the list is longer than spec.splitting.llm.maxNewTokens {limit}")
        raise Unparsable(said.detail)

    def _reject(self, sample: Sample, reason: str, detail: str) -> None:
        self._output.reject(Rejected(sample.id, sample.candidate, reason, detail))
