"""Public answers, judged here, give the numbers that were published of them.

Samples are in this repository; `make test-long` judges the rest, from ../shared/public. Where a rule of words needs
NLTK's tagger, the parts of speech that it gave are read from tests/data/benchmarks/chair/parts.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from feedback_workloads.benchmarks.chair import Chair
from feedback_workloads.benchmarks.coco.answers import read_answers
from feedback_workloads.benchmarks.english.tagging import nltk_parts
from feedback_workloads.benchmarks.english.tokens import tokens
from feedback_workloads.benchmarks.official import chosen
from feedback_workloads.benchmarks.pope import Pope, of_folder
from feedback_workloads.contract import BadInput
from feedback_workloads.method.evaluation import Answer, Figures, Marked
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.statistics import Measures
from feedback_workloads.rows.json_files import read_rows
from tests.public import SAMPLES, public, recorded

PRINTED: Final = 0.0005 + 1e-9
"""What printing a tenth of a percent can hide; three published numbers lie on a half."""


def score(answers: Path, truth: Path, **options: str) -> dict[str, Any]:
    """What the scorer's file holds."""
    tagger = recorded(answers) if options.get("words", "pos") == "pos" else nltk_parts
    result = Chair(tagger).score(answers, truth, chosen(Chair.options, options)).result
    return json.loads(json.dumps(result))


def check(answers: Path, truth: Path, expect: Mapping[str, float], **options: str) -> None:
    """Compare with percentages."""
    found = score(answers, truth, **options)["overall_metrics"]
    assert {name: found[name] for name in expect} == {
        name: pytest.approx(value / 100, abs=PRINTED) for name, value in expect.items()
    }


# ── CHAIR by parts of speech: arXiv 2410.15926, Table 2, greedy ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "expect"),
    [
        ("llava-v1.5-7b_coco_chair_long_ans", {"CHAIRs": 46.2, "CHAIRi": 12.9, "Recall": 80.3, "Len": 97.2}),
        ("llava-v1.5-7b_coco_chair_short_ans", {"CHAIRs": 21.0, "CHAIRi": 6.2, "Recall": 66.3, "Len": 54.9}),
        ("cca-llava-1.5-7b_coco_chair_long_ans", {"CHAIRs": 43.0, "CHAIRi": 11.5, "Recall": 80.4, "Len": 96.6}),
    ],
)
def test_cca_llava(name: str, expect: Mapping[str, float]) -> None:
    check(SAMPLES / f"chair/cca-llava/{name}.jsonl.gz", SAMPLES / "chair/truth_pos.tsv.gz", expect)


@pytest.mark.long
def test_cca_llava_short() -> None:
    """The paper has 18.2, 5.4, 66.7 and 54.5: of the answers that are public, two fewer hallucinate."""
    answers = public("chair/cca-llava/cca-llava-1.5-7b_coco_chair_short_ans.jsonl.gz")
    expect = {"CHAIRs": 17.8, "CHAIRi": 5.3, "Recall": 66.7, "Len": 54.5}
    check(answers, public("chair/coco2014_objects_pos.tsv.gz"), expect)


# ── CHAIR, row by row: what the official scorer saved (Areebol/vlm-decoding-hal) ─────────────────────────────────────


def same_rows(file: Path, truth: Path) -> None:
    saved = json.loads(gzip.decompress(file.read_bytes()))
    for row in saved["sentences"]:
        row["mscoco_gt_words"].sort()  # a set there
    found = score(file, truth)
    assert [row for row, other in zip(found["sentences"], saved["sentences"], strict=True) if row != other] == []
    assert found["overall_metrics"] == saved["overall_metrics"]


def test_rows_that_the_official_scorer_saved() -> None:
    same_rows(SAMPLES / "chair/deco/regular_chair.json.gz", SAMPLES / "chair/truth_pos.tsv.gz")


@pytest.mark.long
@pytest.mark.parametrize("name", ["regular", "deco", "vcd"])
def test_all_rows_that_the_official_scorer_saved(name: str) -> None:
    same_rows(public(f"chair/deco/{name}_chair.json.gz"), public("chair/coco2014_objects_pos.tsv.gz"))


# ── CHAIR, answers by parts of speech, truth by singularize: arXiv 2311.17911, at most 512 tokens ────────────────────


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "sentences", "mentions"),
    [
        ("instructblip.greedy", 58.8, 23.7),
        ("instructblip.beam5", 55.6, 15.8),
        ("minigpt4.beam5", 30.6, 9.5),
        ("minigpt4.ours", 26.2, 9.5),
        pytest.param("llava-1.5.greedy", 45.0, 12.7, id="the paper's 14.7 is a slip"),
        ("llava-1.5.beam5", 48.8, 13.9),
        ("llava-1.5.ours", 44.6, 12.8),
        ("shikra.greedy", 55.8, 15.4),
        ("shikra.ours", 36.2, 12.1),
    ],
)
def test_opera(name: str, sentences: float, mentions: float) -> None:
    answers = public(f"chair/opera/{name}.jsonl.gz")
    check(answers, public("chair/coco2014_objects_singularize.tsv.gz"), {"CHAIRs": sentences, "CHAIRi": mentions})


# ── CHAIR as it was published, by singularize: arXiv 2305.10355, its I_1 and I_2 being files 2 and 1 ──────────────────


def pope_captions(answers: Path, truth: Path, mentions: float, sentences: float, length: float) -> None:
    expect = {"CHAIRi": mentions, "CHAIRs": sentences, "Len": length}
    check(answers, truth, expect, words="singularize", length="blanks")


@pytest.mark.parametrize(
    ("name", "expect"), [("Instruction1_instructblip", (2.5, 3.4, 7.5)), ("Instruction2_instructblip", (2.6, 3.7, 8.5))]
)
def test_captions_of_the_pope_paper(name: str, expect: tuple[float, float, float]) -> None:
    folder = SAMPLES / "chair"
    pope_captions(folder / f"pope-captions/{name}.json.gz", folder / "truth_singularize.tsv.gz", *expect)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "expect"),
    [
        ("Instruction2_mplug", (14.8, 25.4, 35.8)),
        ("Instruction2_llava", (10.5, 32.7, 64.3)),
        ("Instruction2_minigpt-4", (6.7, 9.5, 24.7)),
        ("Instruction1_llava", (18.8, 62.7, 90.7)),
        ("Instruction1_mmgpt", (18.2, 36.2, 45.7)),
        ("Instruction1_minigpt-4", (9.2, 31.5, 116.2)),
    ],
)
def test_more_captions_of_the_pope_paper(name: str, expect: tuple[float, float, float]) -> None:
    truth = public("chair/coco2014_objects_singularize.tsv.gz")
    pope_captions(public(f"chair/pope-captions/{name}.json.gz"), truth, *expect)


# ── POPE: LLaVA-1.5-13B; the mean of the three is 85.9 in LLaVA's docs/MODEL_ZOO.md ──────────────────────────────────


def test_pope() -> None:
    metrics = Pope().score(SAMPLES / "pope/answers.jsonl.gz", SAMPLES / "pope", {}).metrics
    scores = {name: metrics[f"{name}.F1 score"] for name in ("random", "popular", "adversarial")}
    expect = {"random": 0.8714, "popular": 0.8625, "adversarial": 0.8446}
    assert scores == {name: pytest.approx(value, abs=PRINTED / 10) for name, value in expect.items()}
    assert sum(value or 0 for value in scores.values()) / 3 == pytest.approx(0.859, abs=PRINTED)


# ── the parts of speech that all this rests on ───────────────────────────────────────────────────────────────────────


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(file.name for file in (SAMPLES / "chair/parts").iterdir()))
def test_recorded_parts_of_speech_are_those_of_nltk(name: str) -> None:
    folder, _, file = name.removesuffix(".txt.gz").partition(".")
    answers = public(f"chair/{folder}/{file}.{'json' if folder == 'deco' else 'jsonl'}.gz")
    words = [tokens(row.text("caption").lower()) for row in read_answers(answers)]
    try:
        found = nltk_parts(words)
    except BadInput as missing:
        pytest.skip(f"only the record of NLTK's tagger was read, since {missing}")
    assert found == recorded(answers)(words)


# ── within an iteration, where answers are judged one at a time, the numbers are the same ────────────────────────────


def test_chair_one_answer_at_a_time() -> None:
    """The published rates of 2,000 captions, but for CHAIRs, which is of the answers that name something here."""
    answers = SAMPLES / "chair/pope-captions/Instruction2_instructblip.json.gz"
    judge, truth = Chair(words="singularize"), SAMPLES / "chair/truth_singularize.tsv.gz"
    official = judge.score(answers, truth, chosen(Chair.options, {"words": "singularize"}))
    saved = official.result["sentences"]  # type: ignore[index]
    found = measured([judge.judge(row["caption"], json.dumps(row["mscoco_gt_words"])) for row in saved])
    assert found.mention_hallucination.value == pytest.approx(official.metrics["CHAIRi"])
    assert found.recall.value == pytest.approx(official.metrics["Recall"])
    hallucinating, naming = official.shares["CHAIRs"], official.shares["CHAIRi"]
    assert found.response_hallucination.value == sum(one.part for one in hallucinating) / sum(
        one.whole > 0 for one in naming
    )


def test_pope_one_answer_at_a_time() -> None:
    official = Pope().score(SAMPLES / "pope/answers.jsonl.gz", SAMPLES / "pope", {})
    said = verdicts_of(SAMPLES / "pope/answers.jsonl.gz", SAMPLES / "pope")
    for sampling, answered in said.items():
        found = measured([Pope().judge(answer, label) for answer, label in answered])
        for name, rate in (("Accuracy", found.accuracy), ("F1 score", found.f1), ("Recall", found.recall)):
            assert rate.value == pytest.approx(official.metrics[f"{sampling}.{name}"])
        assert 1 - found.mention_hallucination.value == pytest.approx(official.metrics[f"{sampling}.Precision"])


def verdicts_of(answers: Path, truth: Path) -> dict[str, list[tuple[str, str]]]:
    """Answers with the labels of what they answer, by sampling."""
    return {
        sampling: [(one.text("text"), asked.text("label")) for one, asked in zip(said, questions, strict=True)]
        for sampling, (said, questions) in of_folder(read_rows(answers), truth).items()
    }


def measured(judgements: Sequence[Judgement]) -> Measures:
    return Figures(resamples=0, seed=0).of(
        Marked(Answer(f"{number}", 0, "", 0, 0.0), one) for number, one in enumerate(judgements)
    )
