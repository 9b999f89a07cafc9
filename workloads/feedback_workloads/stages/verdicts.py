"""verdicts: the labeler accepts or rejects each claim about the picture (paper, section 3.2).

The picture comes first and the claim last in every prompt, and all claims about one picture follow each other, so that
the engine computes the picture's prefix once for all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feedback_workloads.contract import VerdictsConfig, shard_uri
from feedback_workloads.engine import Engine, Prompt, Verdict
from feedback_workloads.outcome import Outcome
from feedback_workloads.preprocess import Preprocessor
from feedback_workloads.rows import CLAIMS, VERDICTS, BadRow, Instruction, Rejected, read_instructions, shard_of

if TYPE_CHECKING:
    from feedback_workloads.artifacts import ArtifactStore
    from feedback_workloads.parts import Parts
    from feedback_workloads.progress import Progress


@dataclass(frozen=True)
class Asked:
    """The questions about one answer."""

    candidate: int
    questions: Sequence[str]


Questions = dict[str, list[Asked]]
"""What is asked about each instruction's answers, by instruction id."""

Key = tuple[str, int, int]
"""Instruction id, candidate, number of the claim."""


def run(config: VerdictsConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write VERDICTS for every answer of this shard that has a row of claims."""
    progress.phase("reading claims")
    questions = read_questions(config, shard, store)
    with store.append(shard_uri(config, shard), VERDICTS) as parts:
        todo = {id: asked for id, asked in questions.items() if id not in parts.finished_ids()}
        claims = {id: sum(len(one.questions) for one in asked) for id, asked in questions.items()}
        progress.start(total=sum(claims.values()), done=sum(claims[id] for id in questions if id not in todo))
        if todo:
            progress.phase("loading the labeler")
            model = store.download(config.labeler)
            preprocessor = Preprocessor.from_directory(model)
            with Engine.load(model, config.engine, config.precision, config.seed) as engine:
                progress.phase("judging claims")
                instructions = read_instructions(store, config.instructions, shard, config.shards)
                Judging(config, engine, preprocessor, parts, progress).run(todo, instructions)
        return Outcome(parts.files(), parts.counts())


def read_questions(config: VerdictsConfig, shard: int, store: ArtifactStore) -> Questions:
    """The questions of this shard's instructions, answers in the order of candidates."""
    found: Questions = defaultdict(list)
    for row in store.rows(config.claims, CLAIMS, ["id", "candidate", "questions"]):
        if shard_of(row["id"], config.shards) == shard:
            found[row["id"]].append(Asked(row["candidate"], row["questions"]))
    return {id: sorted(asked, key=lambda one: one.candidate) for id, asked in found.items()}


class Judging:
    """Feeds the engine without pause and writes whole instructions, `part_rows` of them a part."""

    def __init__(
        self, config: VerdictsConfig, engine: Engine, preprocessor: Preprocessor, parts: Parts, progress: Progress
    ) -> None:
        self._config = config
        self._engine = engine
        self._preprocessor = preprocessor
        self._parts = parts
        self._progress = progress
        self._verdicts: dict[str, dict[Key, Verdict]] = {}
        self._rejected: dict[str, Rejected] = {}

    def run(self, todo: Questions, instructions: Iterable[Instruction | Rejected]) -> None:
        """Judge everything; what is complete is written even when the stage is ended early."""
        try:
            for key, verdict in self._engine.yes_no(self._requests(todo, instructions)):
                self._verdicts[key[0]][key] = verdict
                self._progress.advance()
                self._progress.count("tokens", verdict.prompt_tokens - verdict.cached_tokens)
                while len(ready := self._ready(todo)) == self._config.part_rows:
                    self._write(ready, todo)
        finally:
            while ready := self._ready(todo):
                self._write(ready, todo)

    def _requests(
        self, todo: Questions, instructions: Iterable[Instruction | Rejected]
    ) -> Iterator[tuple[Key, Prompt]]:
        for row in instructions:
            if row.id not in todo or isinstance(row, Rejected):
                continue
            self._verdicts[row.id] = {}
            try:
                picture = self._preprocessor.picture(row.image)
            except BadRow as error:
                self._rejected[row.id] = Rejected(row.id, None, error.reason, error.detail)
                continue
            for asked in todo[row.id]:
                for number, question in enumerate(asked.questions):
                    prompt = Prompt(self._preprocessor.prompt_ids(question), picture, picture_key=row.id)
                    yield (row.id, asked.candidate, number), prompt

    def _ready(self, todo: Questions) -> list[str]:
        """The first instructions, in their order, that are complete; at most `part_rows`."""
        ready: list[str] = []
        for id, verdicts in self._verdicts.items():
            wanted = sum(len(asked.questions) for asked in todo[id])
            if (id not in self._rejected and len(verdicts) < wanted) or len(ready) == self._config.part_rows:
                break
            ready.append(id)
        return ready

    def _write(self, ids: Sequence[str], todo: Questions) -> None:
        judged = {id: self._verdicts.pop(id) for id in ids}
        rejected = [self._rejected.pop(id) for id in ids if id in self._rejected]
        left_out = {one.id for one in rejected}
        rows = [row(id, asked, judged[id]) for id in ids if id not in left_out for asked in todo[id]]
        self._parts.write(rows, rejected)
        self._progress.count("rejected", len(rejected))


def row(id: str, asked: Asked, verdicts: dict[Key, Verdict]) -> dict[str, Any]:
    """The row of VERDICTS for one answer."""
    found = [verdicts[id, asked.candidate, number] for number in range(len(asked.questions))]
    return {
        "id": id,
        "candidate": asked.candidate,
        "p_yes": [verdict.p_yes for verdict in found],
        "p_no": [verdict.p_no for verdict in found],
        "accepted": [verdict.accepted for verdict in found],
    }
