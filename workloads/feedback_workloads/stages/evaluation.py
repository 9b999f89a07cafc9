"""evaluation: answers of the baseline and of every checkpoint, judged; the choice of one, and of how many to rank.

All models answer the same questions with the same seeds in one engine, whose weights are swapped. The checkpoint is
chosen on the selection split of the first benchmark, see `method.evaluation.RULE`, and so is how many of its answers
the server ranks, see `BEST_OF_RULE` there; what is reported comes from report splits.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.benchmarks import benchmark
from feedback_workloads.contract import (
    SCORES_NAME,
    Artifact,
    BadInput,
    BenchmarkConfig,
    EvaluationConfig,
    FileEntry,
    canonical_json,
    shard_uri,
)
from feedback_workloads.method.evaluation import (
    BASELINE,
    BEST_OF_RULE,
    RULE,
    Answer,
    BestOf,
    Checkpoint,
    Figures,
    Marked,
    Scorecard,
    best_of_curve,
    choose,
    choose_best_of,
    mark,
    scores_row,
)
from feedback_workloads.models.preprocessing import load_picture
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import SCORES
from feedback_workloads.stages.answering import Answers, BenchmarkSplit

if TYPE_CHECKING:
    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore


Questions = Mapping[BenchmarkSplit, Sequence[Instruction]]
Said = dict[tuple[str, BenchmarkSplit], list[Marked]]  # judged answers by model and split


def run(config: EvaluationConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write SCORES and scores.json, and name the chosen checkpoint `aligned`.

    scores.json has the figures of the first benchmark (see `Scorecard.to_json`) with `benchmark`, the number of its
    `questions` by split, `rule`, `selected` and `selected_step`, and `best_of_rule`, `selected_best_of` and
    `selection_curve` (see `BestOf.to_json`); `others` has the figures of other benchmarks by name.
    The count `rows` is of questions; `answers` is that of the rows of SCORES.

    The answers of each model to each split are an artifact of their own below this one, of SAMPLES, so that a restarted
    stage repeats at most one part of them.
    """
    progress.phase("reading the benchmarks")
    questions, rejected = read_questions(config, store)
    checkpoints = find_checkpoints(config, store)
    progress.start(total=number_of_answers(questions, len(checkpoints), config.best_of))
    output = shard_uri(config, shard)
    with Answers(config, output, store, progress, checkpoints) as answers:
        cards, best, said = evaluate(config, questions, answers)
    first, card = config.benchmarks[0], cards[config.benchmarks[0].name]
    summary = {
        "benchmark": first.name,
        "questions": {part.split: len(said[BASELINE, part]) for part in questions if part.benchmark == first},
        "rule": RULE.format(benchmark=first.name, ratio=config.min_recall_ratio),
        "selected": card.chosen.name,
        "selected_step": card.chosen.step,
        "best_of_rule": BEST_OF_RULE.format(benchmark=first.name, ratio=config.min_recall_ratio),
        "selected_best_of": best.n,
        "selection_curve": best.to_json(),
        **card.to_json(),
        "others": {name: other.to_json() for name, other in cards.items() if name != first.name},
    }
    rows = write_rows(store, output, said)
    return Outcome(
        files=(*rows, store.put(canonical_json(summary), output, SCORES_NAME)),
        counts=count(said, rejected, answers),
        metrics={**card.metrics(), "selected_best_of": float(best.n)},
        artifacts={"aligned": checkpoints[card.chosen.name], **answers.artifacts},
    )


def evaluate(
    config: EvaluationConfig, questions: Questions, answers: Answers
) -> tuple[dict[str, Scorecard], BestOf, Said]:
    """Have every model answer, choose a checkpoint, rank its answers.

    Returns figures by benchmark, how many answers are best ranked, and all judged answers.
    """
    said = {
        (model, part): judge(part, asked, answers.once(model, part, asked))
        for model in (BASELINE, *answers.checkpoints)
        for part, asked in questions.items()
    }
    figures = Figures(config.bootstrap_resamples, config.seed)
    measures = {key: figures.of(marked) for key, marked in said.items()}
    selection = BenchmarkSplit(config.benchmarks[0], config.benchmarks[0].selection)

    def checkpoints(report: BenchmarkSplit) -> list[Checkpoint]:
        return [
            Checkpoint(name, step_of(name), measures[name, selection], measures[name, report])
            for name in answers.checkpoints
        ]

    reports = [BenchmarkSplit(one, one.report) for one in config.benchmarks]
    chosen = choose(measures[BASELINE, selection], checkpoints(reports[0]), config.min_recall_ratio).name
    for part, asked in questions.items():
        answers.several(chosen, part, asked)  # all of them before the first is weighed: the baseline is loaded once
    for part, asked in questions.items():
        said[chosen, part] = judge(part, asked, answers.ranked(chosen, part, asked))
    best = choose_best_of(said[chosen, selection], config.best_of, figures, config.min_recall_ratio)
    cards: dict[str, Scorecard] = {}
    for report in reports:
        cards[report.benchmark.name] = Scorecard(
            baseline=measures[BASELINE, report],
            checkpoints=checkpoints(report),
            chosen=next(one for one in checkpoints(report) if one.name == chosen),
            curve=best_of_curve(said[chosen, report], config.best_of, figures),
        )
    return cards, best, said


def count(said: Said, rejected: Sequence[Rejected], answers: Answers) -> dict[str, int]:
    """Questions that were answered, those that could not be put or judged with the reasons, and answers in all."""
    counts = Counter(f"rejected_{row.reason}" for row in rejected)
    answered = 0
    for name, found in answers.counts.items():
        if name.startswith(f"answers/{BASELINE}/"):  # the other models are asked the same
            answered += found["rows"]
            counts.update({reason: number for reason, number in found.items() if reason.startswith("rejected_")})
    return {"rows": answered, "rejected": counts.total(), **counts, "answers": sum(map(len, said.values()))}


def judge(part: BenchmarkSplit, asked: Sequence[Instruction], answers: Sequence[Answer]) -> list[Marked]:
    truths = {question.id: question.truth or "" for question in asked}
    return mark(answers, truths, benchmark(part.benchmark.type))


def write_rows(store: ArtifactStore, output: str, said: Said) -> list[FileEntry]:
    """Store SCORES, one part file a model and split."""
    files: list[FileEntry] = []
    for number, ((model, part), marked) in enumerate(said.items()):
        rows = [scores_row(model, part.benchmark.name, part.split, one) for one in marked]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, SCORES), buffer, compression="zstd")
        files.append(store.put(buffer.getvalue(), output, f"part-{number:05d}.parquet", rows=len(rows)))
    return files


# ── what is asked, and of whom ───────────────────────────────────────────────────────────────────────────────────────


def read_questions(config: EvaluationConfig, store: ArtifactStore) -> tuple[Questions, list[Rejected]]:
    """The questions of each part that can be put and judged, and the rows that cannot.

    Raises BadInput where a split has no question.
    """
    rejected: list[Rejected] = []
    questions: dict[BenchmarkSplit, list[Instruction]] = {}
    for number, one in enumerate(config.benchmarks):
        # Only the first benchmark takes part in the choice.
        wanted = [
            BenchmarkSplit(one, split) for split in ([one.selection, one.report] if number == 0 else [one.report])
        ]
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
    benchmark(of.type).judge("", question.truth)
    load_picture(question.image)


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


def number_of_answers(questions: Questions, checkpoints: int, best_of: int) -> int:
    """How many answers are drawn or weighed: one of every model to each question, and those of one that are ranked.

    Ranking draws `best_of` answers, of which the first is there already, and weighs them all by the baseline.
    """
    return (1 + checkpoints + 2 * best_of - 1) * sum(map(len, questions.values()))
