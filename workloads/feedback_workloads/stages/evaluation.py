"""evaluation: answers of the baseline and of every checkpoint, judged; the choice of one, and of how many to rank.

All models answer the same questions with the same seeds in one engine, whose weights are swapped. The checkpoint is
chosen on the selection split of the first benchmark or of one that is named, see `method.evaluation.RULE`; how many of
its answers the server ranks on that of the first, see `BEST_OF_RULE` there. What is reported comes from report splits.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.benchmarks import benchmark
from feedback_workloads.contract import (
    SCORES_NAME,
    Artifact,
    BadInput,
    BenchmarkConfig,
    Choice,
    EvaluationConfig,
    FileEntry,
    RankingChoice,
    canonical_json,
    shard_uri,
)
from feedback_workloads.method.evaluation import (
    BASELINE,
    BEST,
    BEST_OF_RULE,
    RULE,
    Answer,
    BaselineCard,
    BestOf,
    Checkpoint,
    Drawn,
    Figures,
    Marked,
    Ranker,
    Scorecard,
    best_of,
    choose,
    choose_best_of,
    curve_sizes,
    mark,
    own_likelihood,
    rank,
    rank_baseline,
    reward_by,
    scores_row,
)
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.ranking import rankings
from feedback_workloads.method.statistics import Rate
from feedback_workloads.models.pictures import load_picture
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import SCORES
from feedback_workloads.stages.answering import Answers, BenchmarkSplit

if TYPE_CHECKING:
    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore


Questions = Mapping[BenchmarkSplit, Sequence[Instruction]]
Said = dict[tuple[str, BenchmarkSplit, Drawn], list[Marked]]
"""Judged answers by model, by split, and by what they were drawn for."""


def run(config: EvaluationConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write SCORES and scores.json, and name the chosen checkpoint `aligned`.

    scores.json has the figures of the first benchmark (see `Scorecard.to_json`) with `benchmark`, the number of its
    `questions` by split, `rule`, `selected` and `selected_step`, `selection` (what the gate reads: the figures of both
    and their `ratio`), `best_of_rule`, `ranking` (a row for each rule, weight and N, see `BestOf.to_json`; none where
    nothing is ranked) and `reward_on_baseline` (the same of the baseline's answers, ranked `by` the aligned policy or
    the baseline itself; null unless it was asked for); `others` has the figures of other benchmarks by name, with a
    `selection` of its own of each on which something is decided.
    Without a policy to choose from, it has `benchmark`, `questions`, the figures of the baseline by itself (see
    `BaselineCard.to_json`) and `others`, and no checkpoint is named.
    The count `rows` is of questions; `answers` is that of the rows of SCORES.

    The answers of each model to each split are an artifact of their own below this one, of SAMPLES, so that a restarted
    stage repeats at most one part of them.
    """
    progress.phase("reading the benchmarks")
    questions, rejected = read_questions(config, store)
    checkpoints = find_checkpoints(config, store) if config.policy else {}
    progress.start(total=number_of_answers(config, questions, len(checkpoints)))
    output = shard_uri(config, shard)
    with Answers(config, output, store, progress, checkpoints) as answers:
        found = (
            figures_of_policy(config, questions, answers)
            if config.policy
            else figures_alone(config, questions, answers)
        )
    rows = write_rows(store, output, found.said)
    chosen = {"aligned": checkpoints[found.chosen]} if found.chosen else {}
    return Outcome(
        files=(*rows, store.put(canonical_json(found.scores), output, SCORES_NAME)),
        counts=count(found.said, rejected, answers),
        metrics=found.metrics,
        artifacts={**chosen, **answers.artifacts},
        ranked=found.ranked,
    )


@dataclass(frozen=True)
class Found:
    """What the stage leaves: all answers, the content of scores.json, and what it hands in.

    `chosen` and `ranked`, the checkpoint and how its answers are ranked, are None where there was none to choose.
    """

    said: Said
    scores: Mapping[str, Any]
    metrics: dict[str, float]
    chosen: str | None = None
    ranked: RankingChoice | None = None


def figures_of_policy(config: EvaluationConfig, questions: Questions, answers: Answers) -> Found:
    """Of the baseline and all checkpoints."""
    found = evaluate(config, questions, answers)
    return Found(
        said=found.said,
        scores=scores(config, found),
        metrics=metrics(config, found),
        chosen=found.cards[config.benchmarks[0].name].chosen.name,
        ranked=RankingChoice(n=found.best.n, ranking=found.best.by) if found.best else RankingChoice(),
    )


def figures_alone(config: EvaluationConfig, questions: Questions, answers: Answers) -> Found:
    """Of the baseline by itself."""
    said, cards = evaluate_baseline(config, questions, answers)
    return Found(said, scores_of_baseline(config, questions, cards), cards[config.benchmarks[0].name].metrics())


def evaluate_baseline(
    config: EvaluationConfig, questions: Questions, answers: Answers
) -> tuple[Said, dict[str, BaselineCard]]:
    """Have the model answer and, where several answers are asked for, rank them by its own likelihood."""
    said = answer_once(config, questions, answers)
    for split, asked in ranked_of_baseline(config, questions).items():
        said[BASELINE, split, "ranked"] = judge(split, asked, answers.candidates(BASELINE, split, asked))
    figures = Figures(config.bootstrap_resamples, config.seed)
    cards = {
        split.benchmark.name: BaselineCard(
            report=figures.of(said[BASELINE, split, "once"]),
            best={
                n: figures.of(best_of(said[BASELINE, split, "ranked"], n, own_likelihood))
                for n in curve_sizes(config.best_of)
                if ranks(config)
            },
        )
        for split in questions
    }
    return said, cards


def scores_of_baseline(
    config: EvaluationConfig, questions: Questions, cards: Mapping[str, BaselineCard]
) -> dict[str, Any]:
    """The content of scores.json of a model by itself."""
    first, *others = config.benchmarks
    written = {name: card.to_json(config.decoding, config.ranked_decoding) for name, card in cards.items()}
    return {
        "benchmark": first.name,
        "questions": {first.report: len(questions[BenchmarkSplit(first, first.report)])},
        **written[first.name],
        "others": {one.name: written[one.name] for one in others},
    }


@dataclass(frozen=True)
class Evaluation:
    """Figures by benchmark, the best of N answers by every rule, the one of them that is chosen, and all answers.

    `ranking` is empty where nothing is ranked. `on_baseline` is the best of N of the baseline's answers, by who ranks
    them; None where it was not asked for.
    """

    cards: Mapping[str, Scorecard]
    ranking: Sequence[BestOf]
    best: BestOf | None
    on_baseline: Mapping[Ranker, Sequence[BestOf]] | None
    said: Said


def evaluate(config: EvaluationConfig, questions: Questions, answers: Answers) -> Evaluation:
    """Have every model answer, choose a checkpoint, rank its answers by every rule, choose one."""
    choice = config.choice or Choice(benchmark=config.benchmarks[0].name)
    selections = {
        one.name: BenchmarkSplit(one, one.selection) for one in config.benchmarks if one.name in config.selecting
    }
    selection = selections[config.benchmarks[0].name]
    reports = {one.name: BenchmarkSplit(one, one.report) for one in config.benchmarks}
    first = reports[config.benchmarks[0].name]
    said = answer_once(config, questions, answers)
    figures = Figures(config.bootstrap_resamples, config.seed)
    measures = {(model, split): figures.of(marked) for (model, split, _), marked in said.items()}

    def scored(model: str, report: BenchmarkSplit) -> Checkpoint:
        step = 0 if model == BASELINE else step_of(model)
        of_selection = measures[model, selections.get(report.benchmark.name, selection)]
        return Checkpoint(model, step, of_selection, measures[model, report])

    def candidates(model: str) -> dict[Literal["selection", "report"], list[Marked]]:
        return {"selection": said[model, selection, "ranked"], "report": said[model, first, "ranked"]}

    def ratios(split: BenchmarkSplit) -> dict[str, Rate]:
        return figures.ratios(said[chosen, split, "once"], said[BASELINE, split, "once"])

    chosen = choose(
        measures[BASELINE, selections[choice.benchmark]],
        [scored(name, reports[choice.benchmark]) for name in answers.checkpoints],
        config.min_recall_ratio,
        choice.metric,
    ).name
    said |= answer_to_be_ranked(config, questions, answers, chosen)
    rewards = {by: reward_by(by, config.beta) for by in rankings(config.lambdas)}
    ranked = (
        rank(candidates(chosen), said[chosen, selection, "once"], rewards, config.best_of, figures)
        if ranks(config)
        else []
    )
    best = choose_best_of(ranked, measures[chosen, selection], config.min_recall_ratio)
    ratios_by_split = {split: ratios(split) for split in selections.values()}
    cards = {
        name: Scorecard(
            baseline=scored(BASELINE, report),
            checkpoints=[scored(name, report) for name in answers.checkpoints],
            chosen=scored(chosen, report),
            ratios=ratios_by_split[selections.get(name, selection)],
            best=(best.by, best.n, figures.of(best_of(said[chosen, report, "ranked"], best.n, rewards[best.by])))
            if best
            else None,
            baseline_best={
                n: figures.of(best_of(said[BASELINE, report, "ranked"], n, own_likelihood))
                for n in curve_sizes(config.best_of)
                if ranks(config)
            },
        )
        for name, report in reports.items()
    }
    on_baseline = (
        rank_baseline(candidates(BASELINE), said[BASELINE, selection, "once"], rewards, config.best_of, figures)
        if config.reward_on_baseline
        else None
    )
    return Evaluation(cards, ranked, best, on_baseline, said)


def answer_once(config: EvaluationConfig, questions: Questions, answers: Answers) -> Said:
    """One answer of every model to each question; while the baseline is loaded, its candidates are drawn, too."""
    said: Said = {}
    for model in (BASELINE, *answers.checkpoints):
        for split, asked in questions.items():
            said[model, split, "once"] = judge(split, asked, answers.once(model, split, asked))
        if model == BASELINE:
            for split, asked in ranked_of_baseline(config, questions).items():
                answers.candidates(model, split, asked)
    return said


def answer_to_be_ranked(config: EvaluationConfig, questions: Questions, answers: Answers, chosen: str) -> Said:
    """The candidates of the baseline and of the chosen checkpoint, each as the other weighs them, where that is asked.

    What a model draws it draws before anything is weighed, so that it is loaded once.
    """
    said: Said = {}
    if not ranks(config):
        return said
    ranked = to_be_ranked(config, questions)
    for split, asked in ranked.items():
        answers.candidates(chosen, split, asked)
    for split, asked in ranked_of_baseline(config, questions).items():
        drawn = (
            answers.weighed(chosen, BASELINE, split, asked)
            if config.reward_on_baseline
            else answers.candidates(BASELINE, split, asked)
        )
        said[BASELINE, split, "ranked"] = judge(split, asked, drawn)
    for split, asked in ranked.items():
        said[chosen, split, "ranked"] = judge(split, asked, answers.weighed(BASELINE, chosen, split, asked))
    return said


def ranks(config: EvaluationConfig) -> bool:
    """Whether answers are drawn to be ranked: of one, nothing can be said that its single answer does not say."""
    return config.best_of > 1 or config.reward_on_baseline


def to_be_ranked(config: EvaluationConfig, questions: Questions) -> Questions:
    """The questions to which the chosen checkpoint's answers are ranked: how, is chosen on the first benchmark."""
    first = config.benchmarks[0]
    return {
        split: asked
        for split, asked in questions.items()
        if split.benchmark == first or split.split == split.benchmark.report
    }


def ranked_of_baseline(config: EvaluationConfig, questions: Questions) -> Questions:
    """The questions to which the baseline's answers are ranked.

    Those of report splits, for its own likelihood stands beside what is reported; all where others rank them, too.
    """
    return {
        split: asked
        for split, asked in to_be_ranked(config, questions).items()
        if config.reward_on_baseline or (ranks(config) and split.split == split.benchmark.report)
    }


def scores(config: EvaluationConfig, found: Evaluation) -> dict[str, Any]:
    """The content of scores.json, see `run`."""
    first, card = config.benchmarks[0], found.cards[config.benchmarks[0].name]
    decodings = config.decoding, config.ranked_decoding
    ranked = {"decoding": config.ranked_decoding.model_dump(mode="json")}
    choice = config.choice or Choice(benchmark=first.name)
    return {
        "benchmark": first.name,
        "questions": {
            split: len(found.said[BASELINE, BenchmarkSplit(first, split), "once"])
            for split in (first.selection, first.report)
        },
        "rule": RULE.format(benchmark=choice.benchmark, ratio=config.min_recall_ratio, best=BEST[choice.metric]),
        "selected": card.chosen.name,
        "selected_step": card.chosen.step,
        "best_of_rule": BEST_OF_RULE.format(benchmark=first.name, ratio=config.min_recall_ratio),
        **card.to_json(*decodings),
        "selection": card.selection_json(config.decoding),
        "ranking": [{**row.to_json(), **ranked} for row in found.ranking],
        "reward_on_baseline": (
            [{"by": by, **row.to_json(), **ranked} for by, rows in found.on_baseline.items() for row in rows]
            if found.on_baseline
            else None
        ),
        "others": {
            name: other.to_json(*decodings)
            | ({"selection": other.selection_json(config.decoding)} if name in config.selecting else {})
            for name, other in found.cards.items()
            if name != first.name
        },
    }


def metrics(config: EvaluationConfig, found: Evaluation) -> dict[str, float]:
    """The figures of the first benchmark, and what the gate may read of others: `NAME/selection.aligned.recall`.

    Of these a result keeps six digits, since it has few bytes.
    """
    first, *others = config.benchmarks
    return found.cards[first.name].metrics() | {
        f"{one.name}/{name}": round(value, 6)
        for one in others
        if one.name in config.selecting
        for name, value in found.cards[one.name].of_selection().items()
    }


def count(said: Said, rejected: Sequence[Rejected], answers: Answers) -> dict[str, int]:
    """Questions that were answered, those that could not be put or judged with the reasons, and answers in all."""
    counts = Counter(f"rejected_{row.reason}" for row in rejected)
    answered = 0
    for name, found in answers.counts.items():
        if name.startswith(f"answers/{BASELINE}/") and name.endswith("/once"):  # the others are asked the same
            answered += found["rows"]
            counts.update({reason: number for reason, number in found.items() if reason.startswith("rejected_")})
    return {"rows": answered, "rejected": counts.total(), **counts, "answers": sum(map(len, said.values()))}


def judge(split: BenchmarkSplit, asked: Sequence[Instruction], answers: Sequence[Answer]) -> list[Marked]:
    truths = {question.id: question.truth or "" for question in asked}
    return mark(answers, truths, benchmark(split.benchmark.type, split.benchmark.words))


def write_rows(store: ArtifactStore, output: str, said: Said) -> list[FileEntry]:
    """Store SCORES, one part file a model, a split and a decoding.

    Where a benchmark asks closed questions, there is a column more: whether the answer is right, null of open ones.
    """
    files: list[FileEntry] = []
    closed = any(one.judgement.closed for marked in said.values() for one in marked)
    schema = SCORES.append(pa.field("right", pa.bool_())) if closed else SCORES
    for number, ((model, split, drawn), marked) in enumerate(said.items()):
        rows = [
            {**scores_row(model, split.benchmark.name, split.split, drawn, one), "right": right(one.judgement)}
            for one in marked
        ]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema), buffer, compression="zstd")
        files.append(store.put(buffer.getvalue(), output, f"part-{number:05d}.parquet", rows=len(rows)))
    return files


def right(judgement: Judgement) -> bool | None:
    """Whether a closed question has its right answer; None of an open one."""
    return judgement.closed.right if judgement.closed else None


# ── what is asked, and of whom ───────────────────────────────────────────────────────────────────────────────────────


def read_questions(config: EvaluationConfig, store: ArtifactStore) -> tuple[Questions, list[Rejected]]:
    """The questions of each part that can be put and judged, and the rows that cannot.

    Raises BadInput where a split has no question.
    """
    rejected: list[Rejected] = []
    questions: dict[BenchmarkSplit, list[Instruction]] = {}
    for one in config.benchmarks:
        # Nothing is decided on the others.
        splits_wanted = [one.selection, one.report] if one.name in config.selecting else [one.report]
        wanted = [BenchmarkSplit(one, split) for split in splits_wanted]
        questions |= {part: [] for part in wanted}
        splits = set[str]()
        for row in store.instructions(one.source):
            if isinstance(row, Rejected):
                rejected.append(row)
                continue
            part = BenchmarkSplit(one, row.split or "")
            splits.add(part.split)
            if part not in wanted:
                continue
            try:
                check_question(row, one)
                questions[part].append(row)
            except BadRow as bad:
                rejected.append(Rejected(row.id, None, bad.reason, bad.detail))
        for part in wanted:
            if not questions[part]:
                raise BadInput(
                    f"benchmark {one.name} at {one.source.uri} has no usable question of split {part.split!r} "
                    f"(its splits are {sorted(splits)}); name the split of each row in the column split"
                )
    return questions, rejected


def check_question(question: Instruction, of: BenchmarkConfig) -> None:
    """Raise BadRow where the question has no truth that the benchmark can read, or no picture that can be decoded."""
    if question.truth is None:
        raise BadRow("missing-truth", "the column truth is empty, so that no answer can be judged")
    benchmark(of.type, of.words).judge("", question.truth)
    for image in question.images:
        load_picture(image)


def find_checkpoints(config: EvaluationConfig, store: ArtifactStore) -> dict[str, Artifact]:
    """The policy's checkpoints by name, in the order of their steps."""
    found = {name: ref for policy in config.policy for name, ref in store.manifest(policy).artifacts.items()}
    if not found:
        raise BadInput(f"the policy at {config.policy[0].uri} names no checkpoints; run the stage training again")
    return {name: found[name] for name in sorted(found, key=step_of)}


def step_of(checkpoint: str) -> int:
    """The optimizer step that `checkpoint-000120` was saved at."""
    found = re.search(r"\d+$", checkpoint)
    if found is None:
        raise BadInput(f"the checkpoint name {checkpoint!r} does not end in its step; name it checkpoint-000120")
    return int(found[0])


def number_of_answers(config: EvaluationConfig, questions: Questions, checkpoints: int) -> int:
    """How many answers are drawn or weighed.

    One of every model to each question; to be ranked, `best_of` of the chosen checkpoint, which are weighed by the
    baseline, and as many of the baseline, which are weighed by the chosen where that is asked for.
    """
    asked = sum(map(len, questions.values()))
    of_baseline = sum(map(len, ranked_of_baseline(config, questions).values()))
    of_chosen = sum(map(len, to_be_ranked(config, questions).values())) if config.policy else 0
    ranked = 2 * of_chosen * ranks(config) + (2 if config.reward_on_baseline else 1) * of_baseline
    return (1 + checkpoints) * asked + config.best_of * ranked
