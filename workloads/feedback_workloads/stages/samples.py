"""samples: several answers to each instruction, drawn from the policy under one decoding (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feedback_workloads.contract import SamplesConfig, shard_uri
from feedback_workloads.engine import Answer, Draw, Engine, Prompt
from feedback_workloads.outcome import Outcome
from feedback_workloads.preprocess import Preprocessor
from feedback_workloads.rows import SAMPLES, BadRow, Instruction, Rejected, read_instructions, row_seed

if TYPE_CHECKING:
    from feedback_workloads.artifacts import ArtifactStore
    from feedback_workloads.parts import Parts
    from feedback_workloads.progress import Progress

Key = tuple[str, int]
"""Instruction id and candidate."""


@dataclass
class Open:
    """An instruction whose answers are being drawn, or that is rejected and waits for its turn to be written."""

    question: str
    rejected: Rejected | None
    answers: dict[int, Answer]


def run(config: SamplesConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Sample `candidates` answers to each instruction of this shard. An undecodable picture rejects its instruction."""
    progress.phase("reading instructions")
    rows = list(_ids(store, config, shard))
    with store.append(shard_uri(config, shard), SAMPLES) as parts:
        finished = parts.finished_ids()
        progress.start(total=len(rows), done=sum(row in finished for row in rows))
        if finished.issuperset(rows):
            return Outcome(parts.files(), parts.counts())
        progress.phase("loading the policy")
        model = store.download(config.model)
        preprocessor = Preprocessor.from_directory(model)
        with Engine.load(model, config.engine, config.precision, config.seed) as engine:
            progress.phase("sampling")
            todo = (
                row
                for row in read_instructions(store, config.instructions, shard, config.shards)
                if row.id not in finished
            )
            Sampling(config, engine, preprocessor, parts, progress).run(todo)
        return Outcome(parts.files(), parts.counts())


def _ids(store: ArtifactStore, config: SamplesConfig, shard: int) -> Iterator[str]:
    return (row.id for row in read_instructions(store, config.instructions, shard, config.shards))


class Sampling:
    """Feeds the engine without pause and writes whole instructions in their order, `part_rows` of them a part."""

    def __init__(
        self, config: SamplesConfig, engine: Engine, preprocessor: Preprocessor, parts: Parts, progress: Progress
    ) -> None:
        self._config = config
        self._engine = engine
        self._preprocessor = preprocessor
        self._parts = parts
        self._progress = progress
        self._open: dict[str, Open] = {}

    def run(self, todo: Iterable[Instruction | Rejected]) -> None:
        """Sample everything; what is complete is written even when the stage is ended early."""
        config = self._config
        banned = (self._preprocessor.image_token_id,)
        try:
            for (row, candidate), answer in self._engine.sample(self._requests(todo), config.decoding, banned):
                self._open[row].answers[candidate] = answer
                self._progress.count("tokens", len(answer.token_ids))
                while len(ready := self._ready(config.part_rows)) == config.part_rows:
                    self._write(ready)
        finally:
            while ready := self._ready(config.part_rows):
                self._write(ready)

    def _requests(self, todo: Iterable[Instruction | Rejected]) -> Iterator[tuple[Key, Prompt, Draw]]:
        for row in todo:
            if isinstance(row, Rejected):
                self._open[row.id] = Open("", row, {})
                continue
            try:
                picture = self._preprocessor.picture(row.image)
            except BadRow as error:
                self._open[row.id] = Open(row.question, Rejected(row.id, None, error.reason, error.detail), {})
                continue
            prompt = Prompt(self._preprocessor.prompt_ids(row.question), picture, picture_key=row.id)
            self._open[row.id] = Open(row.question, None, {})
            for candidate in range(self._config.candidates):
                yield (row.id, candidate), prompt, self._draw(row.id, candidate)

    def _draw(self, row: str, candidate: int) -> Draw:
        return Draw(row_seed(self._config.seed, row, candidate), _temperature(self._config, candidate))

    def _ready(self, most: int) -> list[str]:
        """The first instructions, in their order, that are complete; at most `most`."""
        ready: list[str] = []
        for row, state in self._open.items():
            complete = state.rejected is not None or len(state.answers) == self._config.candidates
            if not complete or len(ready) == most:
                break
            ready.append(row)
        return ready

    def _write(self, ids: list[str]) -> None:
        states = {row: self._open.pop(row) for row in ids}
        rows = [
            self._row(row, state, candidate) for row, state in states.items() for candidate in sorted(state.answers)
        ]
        rejected = [state.rejected for state in states.values() if state.rejected]
        self._parts.write(rows, rejected)
        self._progress.advance(len(ids))
        self._progress.count("rejected", len(rejected))

    def _row(self, row: str, state: Open, candidate: int) -> dict[str, Any]:
        answer, draw = state.answers[candidate], self._draw(row, candidate)
        return {
            "id": row,
            "candidate": candidate,
            "question": state.question,
            "answer": self._preprocessor.decode(answer.token_ids),
            "token_ids": answer.token_ids,
            "logprobs": answer.logprobs,
            "temperature": draw.temperature,
            "seed": draw.seed,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
        }


def _temperature(config: SamplesConfig, candidate: int) -> float:
    if not config.temperatures:
        return config.decoding.temperature
    return config.temperatures[candidate % len(config.temperatures)]
