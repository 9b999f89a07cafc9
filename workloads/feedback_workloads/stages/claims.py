"""claims: each answer divided into claims, each claim turned into one yes/no question (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from feedback_workloads.contract import ClaimsConfig, LLMSplitter, SentenceSplitter, WholeAnswer, shard_uri
from feedback_workloads.outcome import Outcome
from feedback_workloads.rows import CLAIMS, SAMPLES, Rejected, row_seed, shard_of
from feedback_workloads.splitting import (
    CONVERT_PROMPT,
    DIVIDE_PROMPT,
    Unparsable,
    as_questions,
    bullets,
    parse_bullets,
    question_of,
    sentences,
)

if TYPE_CHECKING:
    from feedback_workloads.artifacts import ArtifactStore
    from feedback_workloads.engine import Engine
    from feedback_workloads.progress import Progress


@dataclass(frozen=True)
class Sample:
    """One answer to one question."""

    id: str
    candidate: int
    question: str
    answer: str

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.candidate


@dataclass(frozen=True)
class Claimed:
    """An answer's claims, and one question for each."""

    claims: tuple[str, ...]
    questions: tuple[str, ...]


Divide = Callable[[Sequence[Sample]], Sequence[Claimed | Rejected]]
"""What a splitter does: one result for each answer, in order."""


def run(config: ClaimsConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write CLAIMS for every answer to this shard's instructions."""
    progress.phase("reading answers")
    answers = read_answers(config, shard, store)
    with store.append(shard_uri(config, shard), CLAIMS) as parts:
        todo = [group for id, group in answers.items() if id not in parts.finished_ids()]
        progress.start(total=len(answers), done=len(answers) - len(todo))
        if todo:
            with splitter(config, store, progress) as divide:
                progress.phase("dividing answers")
                for first in range(0, len(todo), config.part_rows):
                    groups = todo[first : first + config.part_rows]
                    samples = [sample for group in groups for sample in group]
                    divided = divide(samples)
                    rows = [row(s, c) for s, c in zip(samples, divided, strict=True) if isinstance(c, Claimed)]
                    rejected = [one for one in divided if isinstance(one, Rejected)]
                    parts.write(rows, rejected)
                    progress.advance(len(groups))
                    progress.count("rejected", len(rejected))
        return Outcome(parts.files(), parts.counts())


def read_answers(config: ClaimsConfig, shard: int, store: ArtifactStore) -> dict[str, list[Sample]]:
    """The answers to this shard's instructions, by instruction, in the order of ids and candidates."""
    table = store.read_table(config.samples, SAMPLES, ["id", "candidate", "question", "answer"])
    samples = sorted((Sample(**row) for row in table.to_pylist()), key=lambda sample: sample.key)
    mine = (sample for sample in samples if shard_of(sample.id, config.shards) == shard)
    return {id: list(group) for id, group in groupby(mine, key=lambda sample: sample.id)}


def row(sample: Sample, claimed: Claimed) -> dict[str, Any]:
    """The row of CLAIMS for one answer."""
    return {
        "id": sample.id,
        "candidate": sample.candidate,
        "claims": list(claimed.claims),
        "questions": list(claimed.questions),
    }


@contextmanager
def splitter(config: ClaimsConfig, store: ArtifactStore, progress: Progress) -> Iterator[Divide]:
    """The configured splitter; the one that asks a model holds an engine while it is open."""
    match config.splitter:
        case SentenceSplitter(language=language):
            yield lambda samples: [_by_template(sentences(s.answer, language), config) for s in samples]
        case WholeAnswer():
            yield lambda samples: [_by_template(_whole(s.answer), config) for s in samples]
        case LLMSplitter():
            from feedback_workloads.engine import Engine

            progress.phase("loading the splitter's model")
            model = store.download(config.splitter.model)
            with Engine.load(model, config.engine, config.precision, config.seed) as engine:
                yield LLMDivider(engine, config.splitter, config.seed)


def _by_template(claims: tuple[str, ...], config: ClaimsConfig) -> Claimed:
    return Claimed(claims, tuple(question_of(claim, config.question_template) for claim in claims))


def _whole(answer: str) -> tuple[str, ...]:
    return (answer.strip(),) if answer.strip() else ()


class LLMDivider:
    """Asks a text model twice: for an answer's claims, then for one question a claim.

    A list that does not parse, was cut at the length limit, or does not match its claims is asked for again with
    another seed, `attempts` times in all; then the answer is rejected. Nothing is cut or dropped to make it fit.
    """

    def __init__(self, engine: Engine, splitter: LLMSplitter, seed: int) -> None:
        self._engine = engine
        self._splitter = splitter
        self._seed = seed

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Claimed | Rejected]:
        by_key = {sample.key: sample for sample in samples}
        divide = {key: DIVIDE_PROMPT.format(question=s.question, answer=s.answer) for key, s in by_key.items()}
        claims = self._ask(divide, lambda _, text: parse_bullets(text))
        listed = {key: found for key, found in claims.items() if isinstance(found, tuple) and found}
        convert = {key: CONVERT_PROMPT.format(claims=bullets(found)) for key, found in listed.items()}
        questions = self._ask(convert, lambda key, text: as_questions(parse_bullets(text), listed[key]))
        return [_divided(sample, claims[sample.key], questions.get(sample.key, ())) for sample in samples]

    def _ask(
        self, prompts: Mapping[tuple[str, int], str], parse: Callable[[tuple[str, int], str], tuple[str, ...]]
    ) -> dict[tuple[str, int], tuple[str, ...] | Unparsable]:
        """What the model's lists say, or why the last one could not be used."""
        found: dict[tuple[str, int], tuple[str, ...] | Unparsable] = {}
        for attempt in range(self._splitter.attempts):
            todo = {key: text for key, text in prompts.items() if not isinstance(found.get(key), tuple)}
            for key, text in self._generate(todo, attempt):
                try:
                    found[key] = parse(key, text) if text is not None else Unparsable("the list was cut off")
                except Unparsable as error:
                    found[key] = error
        return found

    def _generate(
        self, prompts: Mapping[tuple[str, int], str], attempt: int
    ) -> Iterator[tuple[tuple[str, int], str | None]]:
        """The model's answers as text; None for one that reached the length limit."""
        from feedback_workloads.engine import Draw

        decoding = self._splitter.decoding
        requests = (
            (
                (id, candidate),
                self._engine.text_prompt(text),
                Draw(self._draw_seed(id, candidate, attempt), decoding.temperature),
            )
            for (id, candidate), text in prompts.items()
        )
        for key, answer in self._engine.sample(requests, decoding):
            yield key, None if answer.finish_reason == "length" else self._engine.decode(answer.token_ids)

    def _draw_seed(self, id: str, candidate: int, attempt: int) -> int:
        return row_seed(self._seed, id, candidate * self._splitter.attempts + attempt)


def _divided(
    sample: Sample, claims: tuple[str, ...] | Unparsable, questions: tuple[str, ...] | Unparsable
) -> Claimed | Rejected:
    if isinstance(claims, Unparsable):
        return Rejected(sample.id, sample.candidate, "unparsable-claims", str(claims))
    if isinstance(questions, Unparsable):
        return Rejected(sample.id, sample.candidate, "claim-question-mismatch", str(questions))
    return Claimed(claims, questions)
