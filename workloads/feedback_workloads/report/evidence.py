"""What the artifacts of an iteration show, gathered for the report; what is not there is named, never made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from feedback_workloads.contract import (
    SCORES_NAME,
    STATISTICS_NAME,
    TRAINING_LOG_NAME,
    Artifact,
    BadInput,
    BenchmarkConfig,
    Temporary,
)
from feedback_workloads.report.iteration import Iteration, StageRecord
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.schemas import SCORES

if TYPE_CHECKING:
    from feedback_workloads.storage.artifacts import ArtifactStore

Found = TypeVar("Found")
Row = Mapping[str, Any]
Kind = Literal["mended", "still wrong", "newly wrong", "right before and after"]

EXAMPLES: Final[Mapping[Kind, int]] = {"mended": 3, "still wrong": 2, "newly wrong": 2, "right before and after": 1}
"""How many example pictures of each kind are shown, where there are as many."""


@dataclass(frozen=True)
class Example:
    """One question of the report split with three answers, as rows of SCORES."""

    kind: Kind
    image: bytes
    question: str
    answers: Mapping[str, Row]
    """By who gave it: baseline, aligned, best_of_n (where several answers were ranked)."""


@dataclass(frozen=True)
class Examples:
    """Example pictures, and how many questions of each kind the report split has."""

    shown: Sequence[Example] = ()
    numbers: Mapping[Kind, int] = field(default_factory=dict)
    best_of: int = 1


@dataclass(frozen=True)
class Evidence:
    """Everything the report is made of. `missing` says in sentences what could not be had."""

    iteration: Iteration
    scores: dict[str, Any] | None
    pairs: dict[str, Any] | None
    training: Sequence[Row]
    examples: Examples
    missing: Sequence[str]


def gather(iteration: Iteration, store: ArtifactStore) -> Evidence:
    """Read what each finished stage left. Raises nothing for what is missing."""
    missing: list[str] = []

    def attempt(stage: str, read: Callable[[Artifact], Found], otherwise: Found) -> Found:
        found = iteration.stage(stage)
        if found is None or not found.done or not found.shards:
            missing.append(_unfinished(stage, found))
            return otherwise
        try:
            return read(found.shards[0].artifact)
        except (BadInput, Temporary) as error:
            missing.append(f"Stage {stage} is done, but {error}.")
            return otherwise

    return Evidence(
        iteration=iteration,
        pairs=attempt("pairing", lambda ref: _json(store, ref, STATISTICS_NAME), None),
        training=attempt("training", lambda ref: _json_lines(store, ref, TRAINING_LOG_NAME), ()),
        scores=attempt("evaluation", lambda ref: _json(store, ref, SCORES_NAME), None),
        examples=attempt("evaluation", lambda ref: find_examples(store, ref), Examples()),
        missing=list(dict.fromkeys(missing)),
    )


def find_examples(store: ArtifactStore, scores: Artifact) -> Examples:
    """Questions of the first benchmark's report split, the first few of each kind by id."""
    manifest = store.manifest(scores)
    benchmark = BenchmarkConfig.model_validate(manifest.config["benchmarks"][0])
    summary = _json(store, scores, SCORES_NAME)
    rows = (
        row
        for row in store.rows([scores], SCORES)
        if row["benchmark"] == benchmark.name and row["split"] == benchmark.report
    )
    answers = answers_by_question(rows, summary["selected"])
    kinds = {id: kind_of(three) for id, three in sorted(answers.items()) if {"baseline", "aligned"} <= three.keys()}
    chosen = {id: kind for wanted, number in EXAMPLES.items() for id, kind in _first(kinds, wanted, number)}
    pictures = _pictures(store.instructions(benchmark.source), chosen)
    return Examples(
        shown=[Example(kind, pictures[id].image, pictures[id].question, answers[id]) for id, kind in chosen.items()],
        numbers={kind: list(kinds.values()).count(kind) for kind in EXAMPLES},
        best_of=summary["best_of_n"]["n"],
    )


def answers_by_question(rows: Iterable[Row], selected: str) -> dict[str, dict[str, Row]]:
    """The baseline's, the chosen checkpoint's and the best-ranked answer to each question."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        three = found.setdefault(row["id"], {})
        if row["checkpoint"] == "baseline":
            three["baseline"] = row
        elif row["checkpoint"] == selected:
            if row["candidate"] == 0:
                three["aligned"] = row
            if row["reward"] is not None and _ranks_before(row, three.get("best_of_n")):
                three["best_of_n"] = row
    return found


def kind_of(answers: Mapping[str, Row]) -> Kind:
    """How the aligned policy's one answer compares with the baseline's."""
    match answers["baseline"]["hallucinated"] > 0, answers["aligned"]["hallucinated"] > 0:
        case True, False:
            return "mended"
        case True, True:
            return "still wrong"
        case False, True:
            return "newly wrong"
        case _:
            return "right before and after"


def _unfinished(name: str, stage: StageRecord | None) -> str:
    """`Stage training failed: no memory is left.`"""
    words = {"Failed": "failed", "Running": "is not finished", "Suspended": "is suspended"}
    happened = words.get(stage.state, "has not begun") if stage else "has not begun"
    message = stage.message.rstrip(".") if stage else ""
    return f"Stage {name} {happened}{': ' if message else ''}{message}."


def _ranks_before(row: Row, other: Row | None) -> bool:
    return other is None or (row["reward"], -row["candidate"]) > (other["reward"], -other["candidate"])


def _first(kinds: Mapping[str, Kind], wanted: Kind, number: int) -> list[tuple[str, Kind]]:
    return [(id, kind) for id, kind in kinds.items() if kind == wanted][:number]


def _pictures(instructions: Iterable[object], ids: Iterable[str]) -> dict[str, Instruction]:
    wanted = set(ids)
    return {one.id: one for one in instructions if isinstance(one, Instruction) and one.id in wanted}


def _json(store: ArtifactStore, ref: Artifact, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_file(store, ref, name))
    return content


def _json_lines(store: ArtifactStore, ref: Artifact, name: str) -> Sequence[Row]:
    return [json.loads(line) for line in _file(store, ref, name).splitlines()]


def _file(store: ArtifactStore, ref: Artifact, name: str) -> bytes:
    entry = next((entry for entry in store.manifest(ref).files if entry.name == name), None)
    if entry is None:
        raise BadInput(f"the artifact {ref.uri} has no file {name}; run the stage again with this version")
    return store.read(ref.uri, entry)
