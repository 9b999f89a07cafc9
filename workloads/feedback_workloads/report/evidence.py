"""What the artifacts of an iteration show, gathered for the report; what is not there is named, never made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from feedback_workloads.contract import (
    SCORES_NAME,
    STATISTICS_NAME,
    TRAINING_LOG_NAME,
    Artifact,
    BadInput,
    BenchmarkConfig,
    Ranking,
    Temporary,
)
from feedback_workloads.method.ranking import best, reward
from feedback_workloads.method.statistics import Judged, Rate, differences
from feedback_workloads.method.words import count_words
from feedback_workloads.report.iteration import Iteration, StageRecord
from feedback_workloads.rows.conversations import question_of
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.pair_files import asked_in
from feedback_workloads.rows.schemas import SCORES, VERDICTS

if TYPE_CHECKING:
    from feedback_workloads.storage.artifacts import ArtifactStore

Found = TypeVar("Found")
Row = Mapping[str, Any]
Kind = Literal["mended", "still wrong", "newly wrong", "right before and after"]

EXAMPLES: Final[Mapping[Kind, int]] = {"mended": 3, "still wrong": 2, "newly wrong": 2, "right before and after": 1}
"""How many example pictures of each kind are shown, where there are as many."""
PAIRS_SHOWN: Final = 4
RESAMPLES: Final = 1000


KEYS: Final = {"baseline", "baseline_best_of_n", "best_of_rule", "ranking", "reward_on_baseline", "selection"}
KEYS_OF_FIGURES: Final = {"decoding", "expected_recall"}
"""What scores.json of earlier versions has not, and its figures have not."""


@dataclass(frozen=True)
class Example:
    """One question of the report split with three answers, as rows of SCORES."""

    kind: Kind
    images: Sequence[bytes]
    question: str
    answers: Mapping[str, Row]
    """By who gave it: baseline, aligned, best_of_n (where several answers were ranked)."""


@dataclass(frozen=True)
class Examples:
    """Example pictures, and how many questions of each kind the report split has."""

    shown: Sequence[Example] = ()
    numbers: Mapping[Kind, int] = field(default_factory=dict)
    best_of: str = ""
    """How the best-ranked answer is called; empty where nothing is ranked."""
    difference: Rate | None = None
    """Response-level hallucination of aligned less that of the baseline, over the questions that both answered."""


@dataclass(frozen=True)
class Claim:
    """What an answer claims, whether the labeler accepted it, and its probability of yes, where it gave one."""

    text: str
    accepted: bool
    p_yes: float | None


@dataclass(frozen=True)
class PairAnswer:
    """One answer of a preference pair; `score` is minus the number of its claims that were rejected."""

    text: str
    score: int
    claims: Sequence[Claim]


@dataclass(frozen=True)
class Pair:
    """A preference pair with what the labeler said of it."""

    images: Sequence[bytes]
    question: str
    chosen: PairAnswer
    rejected: PairAnswer


@dataclass(frozen=True)
class Evidence:
    """Everything the report is made of. `missing` says in sentences what could not be had."""

    iteration: Iteration
    scores: dict[str, Any] | None
    pairs: dict[str, Any] | None
    training: Sequence[Row]
    examples: Examples
    missing: Sequence[str]
    pair_examples: Sequence[Pair] = ()
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of packages that made its artifacts, more than one where stages ran with several."""
    alone: dict[str, Any] | None = None
    """Scores of a model by itself, where nothing was to be trained; then `scores` are None."""


def gather(iteration: Iteration, store: ArtifactStore) -> Evidence:
    """Read what each finished stage left. Raises nothing for what is missing."""
    missing: list[str] = []

    def attempt(stage: str, read: Callable[[Artifact], Found], otherwise: Found) -> Found:
        found = iteration.stage(stage)
        if found is None or not found.done or not found.artifacts:
            missing.append(_unfinished(stage, found))
            return otherwise
        try:
            return read(found.artifacts[0])
        except (BadInput, Temporary) as error:
            missing.append(f"Stage {stage} is done, but {error}.")
            return otherwise

    if iteration.given("only"):
        return Evidence(
            iteration=iteration,
            scores=None,
            pairs=None,
            training=(),
            examples=Examples(),
            alone=attempt("evaluation", lambda ref: _json(store, ref, SCORES_NAME), None),
            missing=missing,
            versions=find_versions(iteration, store),
        )
    labeling = iteration.stage("labeling")
    labels = labeling.artifacts if labeling and labeling.done else ()
    return Evidence(
        iteration=iteration,
        pairs=attempt("pairing", lambda ref: _json(store, ref, STATISTICS_NAME), None),
        training=attempt("training", lambda ref: _json_lines(store, ref, TRAINING_LOG_NAME), ()),
        scores=attempt("evaluation", lambda ref: _scores(store, ref), None),
        examples=attempt("evaluation", lambda ref: find_examples(store, ref), Examples()),
        pair_examples=attempt("pairing", lambda ref: find_pairs(store, ref, labels), ()),
        missing=list(dict.fromkeys(missing)),
        versions=find_versions(iteration, store),
    )


def find_versions(iteration: Iteration, store: ArtifactStore) -> dict[str, list[str]]:
    """Which packages made the artifacts that are there, as their manifests have it."""
    found: dict[str, list[str]] = {}
    for stage in iteration.status.stages:
        if stage.done and stage.artifacts:
            with suppress(BadInput, Temporary):  # whoever reads the artifact itself has said it
                for package, version in store.manifest(stage.artifacts[0]).versions.items():
                    found.setdefault(package, []).append(version)
    return {package: sorted(set(versions)) for package, versions in found.items()}


def find_examples(store: ArtifactStore, scores: Artifact) -> Examples:
    """Questions of the first benchmark's report split, the first few of each kind by id."""
    manifest = store.manifest(scores)
    benchmark = BenchmarkConfig.model_validate(manifest.config["benchmarks"][0])
    summary = _scores(store, scores)
    rows = (
        row
        for row in store.rows([scores], SCORES)
        if row["benchmark"] == benchmark.name and row["split"] == benchmark.report
    )
    answers = answers_by_question(rows, summary["selected"], reward_of(summary["best_of_n"]), summary["best_of_n"]["n"])
    kinds = {id: kind_of(three) for id, three in sorted(answers.items()) if {"baseline", "aligned"} <= three.keys()}
    chosen = {id: kind for wanted, number in EXAMPLES.items() for id, kind in _first(kinds, wanted, number)}
    pictures = _pictures(store.instructions(benchmark.source), chosen)
    return Examples(
        shown=[Example(kind, pictures[id].images, pictures[id].question, answers[id]) for id, kind in chosen.items()],
        numbers={kind: list(kinds.values()).count(kind) for kind in EXAMPLES},
        best_of=ranked_words(summary["best_of_n"]),
        difference=difference([answers[id] for id in kinds]),
    )


def find_pairs(store: ArtifactStore, pairs: Artifact, labels: Sequence[Artifact]) -> Sequence[Pair]:
    """The first pairs, of as many instructions, with the probabilities that the labeler gave their claims."""
    by_instruction = groupby(store.pairs([pairs]), key=lambda row: row["id"])
    first = [next(of) for _, of in islice(by_instruction, PAIRS_SHOWN)]
    wanted = {(row["id"], row[f"{side}_candidate"]) for row in first for side in ("chosen", "rejected")}
    given: dict[tuple[str, int], Sequence[float]] = {}
    for verdict in store.rows(labels, VERDICTS, ["id", "candidate", "p_yes"]):
        if (key := (verdict["id"], verdict["candidate"])) in wanted:
            given[key] = verdict["p_yes"]
        if len(given) == len(wanted):
            break

    def answer(row: Row, side: str) -> PairAnswer:
        claims, accepted = row[f"{side}_claims"], row[f"{side}_accepted"]
        p_yes = given.get((row["id"], row[f"{side}_candidate"]), [None] * len(claims))
        return PairAnswer(
            row[side], row[f"{side}_score"], [Claim(*one) for one in zip(claims, accepted, p_yes, strict=True)]
        )

    def pair(row: Row) -> Pair:
        messages, images = asked_in(row)
        return Pair(images, question_of(messages), answer(row, "chosen"), answer(row, "rejected"))

    return list(map(pair, first))


def difference(answers: Sequence[Mapping[str, Row]]) -> Rate | None:
    """Response-level hallucination of aligned less that of the baseline, question by question; None without any."""
    aligned, baseline = ([_judged(three[who]) for three in answers] for who in ("aligned", "baseline"))
    return differences([aligned], baseline, RESAMPLES, seed=0)[0] if answers else None


def _judged(row: Row) -> Judged:
    """What the benchmark said, of a row of SCORES."""
    numbers = {one.name: row[one.name] for one in fields(Judged) if one.name in row}
    return Judged(**numbers, words=count_words(row["answer"]))


def answers_by_question(
    rows: Iterable[Row], selected: str, reward: Callable[[Row], float], n: int
) -> dict[str, dict[str, Row]]:
    """The baseline's and the chosen checkpoint's one answer to each question, and the best of its `n` by `reward`."""
    found: dict[str, dict[str, Row]] = {}
    candidates: dict[str, list[Row]] = {}
    for row in rows:
        three = found.setdefault(row["id"], {})
        match row["drawn"], row["checkpoint"]:
            case "once", "baseline":
                three["baseline"] = row
            case "once", checkpoint if checkpoint == selected:
                three["aligned"] = row
            case "ranked", checkpoint if checkpoint == selected and n > 1 and row["candidate"] < n:
                candidates.setdefault(row["id"], []).append(row)
    for id, some in candidates.items():
        some.sort(key=lambda row: row["candidate"])
        found[id]["best_of_n"] = some[best([reward(row) for row in some])]
    return found


def reward_of(chosen: Row) -> Callable[[Row], float]:
    """The reward of a row of SCORES by the rule of `best_of_n` in scores.json, up to its scale."""
    by = Ranking(rule=chosen["rule"] or "LogRatio", weight=chosen["lambda"] or 0.0)
    return lambda row: reward(by, row["logp"], row["other_logp"], row["tokens"], beta=1.0)


def ranked_words(chosen: Row) -> str:
    """`best of 8 by PolicyLikelihood`; empty where one answer is not ranked."""
    return "" if chosen["n"] == 1 else f"best of {chosen['n']} by {rule_words(chosen)}"


def rule_words(row: Row) -> str:
    """`Regularised 0.3`; of a row of `reward_on_baseline` with who ranks: `aligned Regularised 0.3`."""
    weight = [] if row["lambda"] is None else [f"{row['lambda']:g}"]
    return " ".join([*([row["by"]] if "by" in row else []), row["rule"], *weight])


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


def _first(kinds: Mapping[str, Kind], wanted: Kind, number: int) -> list[tuple[str, Kind]]:
    return [(id, kind) for id, kind in kinds.items() if kind == wanted][:number]


def _pictures(instructions: Iterable[object], ids: Iterable[str]) -> dict[str, Instruction]:
    wanted = set(ids)
    return {one.id: one for one in instructions if isinstance(one, Instruction) and one.id in wanted}


def _scores(store: ArtifactStore, ref: Artifact) -> dict[str, Any]:
    """scores.json as this version reads it. Raises BadInput for one that an earlier version wrote."""
    scores = _json(store, ref, SCORES_NAME)
    if not (scores.keys() >= KEYS and scores["baseline"].keys() >= KEYS_OF_FIGURES):
        raise BadInput(f"{SCORES_NAME} is of an earlier version; run evaluation again")
    return scores


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
