"""Answers of a policy before alignment and of its checkpoints, from one engine, kept so that none is drawn twice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.contract import Artifact, BenchmarkConfig, Decoding, EvaluationConfig, Manifest, canonical_json
from feedback_workloads.engine import Draw, Engine, Prompt, Sampled
from feedback_workloads.method.evaluation import BASELINE, Answer, Drawn
from feedback_workloads.models.adapters import ADAPTER_CONFIG
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.sources import fetch
from feedback_workloads.process.versions import versions
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import SAMPLES
from feedback_workloads.stages.ordered import OrderedParts

if TYPE_CHECKING:
    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore
    from feedback_workloads.storage.parts import Parts

PART_ANSWERS: Final = 512  # answers a part file: what a kill can lose

Row = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkSplit:
    """One split of one benchmark: the questions that every model answers."""

    benchmark: BenchmarkConfig
    split: str

    @property
    def name(self) -> str:
        return f"{self.benchmark.name}/{self.split}"


class Answers:
    """Answers of the policy before alignment and of its checkpoints, drawn once and kept.

    One engine holds one model at a time; it is started when there is something left to ask. As a context it is closed.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        output: str,
        store: ArtifactStore,
        progress: Progress,
        checkpoints: Mapping[str, Artifact],
    ) -> None:
        self.checkpoints = checkpoints
        self.artifacts: dict[str, Artifact] = {}
        """The artifacts of answers, by the path of each below this stage's own; `counts` are those of their rows."""
        self.counts: dict[str, Mapping[str, int]] = {}
        self._config = config
        self._output = output
        self._store = store
        self._progress = progress
        self._engine: Engine | None = None

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine:
            self._engine.close()

    def once(self, model: str, split: BenchmarkSplit, asked: Sequence[Instruction]) -> list[Answer]:
        """One answer of `model` to each question, to stand alone."""
        return [_answer(row) for row in self._drawn(model, split, asked, "once")]

    def candidates(self, model: str, split: BenchmarkSplit, asked: Sequence[Instruction]) -> list[Answer]:
        """`best_of` answers of `model` to each question, to be ranked."""
        return [_answer(row) for row in self._drawn(model, split, asked, "ranked")]

    def weighed(self, by: str, model: str, split: BenchmarkSplit, asked: Sequence[Instruction]) -> list[Answer]:
        """The `candidates` of `model` with their log-probabilities under `by`, which take one prefill each."""
        drawn = self._drawn(model, split, asked, "ranked")
        rows = self._weighed(by, model, split, asked, drawn)
        logps = {(row["id"], row["candidate"]): math.fsum(row["logprobs"]) for row in rows}
        return [replace(one, other_logp=logps[one.id, one.candidate]) for one in map(_answer, drawn)]

    def _drawn(self, model: str, split: BenchmarkSplit, asked: Sequence[Instruction], drawn: Drawn) -> list[Row]:
        """SAMPLES of `model`, kept."""
        config = self._config
        number, decoding = (1, config.decoding) if drawn == "once" else (config.best_of, config.ranked_decoding)

        def draw(todo: Sequence[Instruction], output: OrderedParts) -> None:
            engine = self._load(model)
            self._progress.phase(f"{model} answers {split.name}")
            requests = (
                (
                    (question.id, question.question, candidate),
                    prompt,
                    Draw(row_seed(config.seed, question.id, candidate), decoding.temperature),
                )
                for question, prompt in self._prompts(todo, number, output)
                for candidate in range(number)
            )
            for key, answer in engine.sample(requests, decoding):
                output.add(self._row(engine, key, answer, decoding))
                self._progress.count("tokens", len(answer.token_ids))

        return self._kept(f"answers/{model}/{split.name}/{drawn}", asked, number, draw)

    def _weighed(
        self, by: str, model: str, split: BenchmarkSplit, asked: Sequence[Instruction], drawn: Sequence[Row]
    ) -> list[Row]:
        """The rows of `drawn`, answers of `model`, with the log-probabilities under `by` in place of their own."""
        rows_of: dict[str, list[Row]] = {}
        for row in drawn:
            rows_of.setdefault(row["id"], []).append(row)

        def weigh(todo: Sequence[Instruction], output: OrderedParts) -> None:
            engine = self._load(by)
            self._progress.phase(f"{by} weighs answers to {split.name}")
            rows = {(row["id"], row["candidate"]): row for question in todo for row in rows_of[question.id]}
            requests = (
                ((row["id"], row["candidate"]), prompt, row["token_ids"])
                for question, prompt in self._prompts(todo, self._config.best_of, output)
                for row in rows_of[question.id]
            )
            for key, logprobs in engine.score(requests):
                output.add({**rows[key], "logprobs": logprobs})

        answered = [question for question in asked if question.id in rows_of]
        self._progress.advance((len(asked) - len(answered)) * self._config.best_of)
        return self._kept(f"weighed/{by}/{model}/{split.name}", answered, self._config.best_of, weigh)

    def _prompts(
        self, todo: Iterable[Instruction], rows_each: int, output: OrderedParts
    ) -> Iterator[tuple[Instruction, Prompt]]:
        """The prompt of each question that the model can read; the others are rejected."""
        assert self._engine is not None
        for question in todo:
            try:
                prompt = self._engine.family.conversation(question.messages, question.images)
                self._engine.check(prompt)
            except BadRow as bad:
                output.reject(Rejected(question.id, None, bad.reason, bad.detail))
                continue
            output.begin(question.id, rows_each)
            yield question, prompt

    def _kept(
        self,
        name: str,
        asked: Sequence[Instruction],
        answers_each: int,
        work: Callable[[Sequence[Instruction], OrderedParts], None],
    ) -> list[Row]:
        """The rows of the artifact `name`; what is missing of it is worked out, a part at a time.

        Progress is counted in answers.
        """
        folder = f"{self._output}/{name}"
        found = self._store.find(folder)
        if found:
            if name not in self.artifacts:  # else it was counted when it was made
                self._progress.resume(len(asked) * answers_each)
            manifest, self.artifacts[name] = found
        else:
            with self._store.append(folder, SAMPLES) as parts:
                finished = parts.finished_ids()
                self._progress.resume(len(finished) * answers_each)
                todo = [question for question in asked if question.id not in finished]
                if todo:
                    part_rows = max(1, PART_ANSWERS // answers_each)
                    with OrderedParts(parts, part_rows, self._progress, answers_each) as output:
                        work(todo, output)
            manifest = self._manifest(name, parts)
            self.artifacts[name] = self._store.publish(folder, manifest)
        self.counts[name] = manifest.counts
        return list(self._store.rows([self.artifacts[name]], SAMPLES))

    def _manifest(self, name: str, parts: Parts) -> Manifest:
        config = {"answers": name, "of": self._config.content()}
        digest = hashlib.sha256(canonical_json(config)).hexdigest()
        return Manifest(
            stage=self._config.stage,
            config=config,
            config_hash=digest,
            files=parts.files(),
            counts=parts.counts(),
            versions=versions(),
        )

    def _load(self, model: str) -> Engine:
        """The engine with the weights of `model`."""
        if self._engine is None:
            config = self._config
            self._progress.phase("loading the engine")
            first = next(map(self._store.download, self.checkpoints.values()), None)
            adapter = first if first and (first / ADAPTER_CONFIG).exists() else None
            base = fetch(self._store, config.model, config.output, self._progress.phase)
            family = family_of(base, config.model)
            self._engine = Engine.load(family, config.engine, config.precision, config.seed, adapter)
            self._loaded = BASELINE
        if model != self._loaded:
            self._progress.phase(f"loading {model}")
            base = self._engine.family.folder
            self._engine.use(base if model == BASELINE else self._store.download(self.checkpoints[model]))
            self._loaded = model
        return self._engine

    def _row(self, engine: Engine, key: tuple[str, str, int], answer: Sampled, decoding: Decoding) -> Row:
        id, question, candidate = key
        return {
            "id": id,
            "candidate": candidate,
            "question": question,
            "answer": said(engine.family, answer),
            "token_ids": answer.token_ids,
            "logprobs": answer.logprobs,
            "temperature": decoding.temperature,
            "seed": row_seed(self._config.seed, id, candidate),
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
        }


def said(family: Family, answer: Sampled) -> str:
    """The answer's text; nothing where it is all thought: left out, it would leave this model the easier questions."""
    try:
        return family.answer(answer.token_ids)
    except BadRow:
        return ""


def _answer(row: Row) -> Answer:
    return Answer(row["id"], row["candidate"], row["answer"], len(row["token_ids"]), math.fsum(row["logprobs"]))
