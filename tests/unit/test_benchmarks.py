"""What the benchmarks find in an answer."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads import benchmarks
from feedback_workloads.benchmarks import benchmark
from feedback_workloads.benchmarks.amber import Amber
from feedback_workloads.benchmarks.coco_objects import coco_lexicon
from feedback_workloads.contract import BenchmarkType
from feedback_workloads.method.judgement import Benchmark, Closed, Judgement
from feedback_workloads.rows.rejected import BadRow

COCO = benchmark("coco-objects")
LEXICON = coco_lexicon()


def named(text: str) -> list[str]:
    return [mention.name for mention in LEXICON.mentions(text)]


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        pytest.param("A man walks his dogs.", ["person", "dog"], id="synonym and plural"),
        pytest.param(
            "Two women, three children, some mice and geese", ["person", "person", "mouse", "bird"], id="irregular"
        ),
        pytest.param(
            "knives, buses, benches, puppies, wine glasses",
            ["knife", "bus", "bench", "dog", "wine glass"],
            id="plural rules",
        ),
        pytest.param("a hot dog and a teddy bear", ["hot dog", "teddy bear"], id="the longest phrase wins"),
        pytest.param("the train tracks near a bus stop", [], id="phrases that name something else"),
        pytest.param("a hot. dog", ["dog"], id="a phrase does not cross punctuation"),
        pytest.param("a motor-bike and a dog's bowl", ["motorcycle", "dog", "bowl"], id="hyphen and possessive"),
        pytest.param("DOG Dog dOG", ["dog", "dog", "dog"], id="any case; every mention counts"),
        pytest.param("an orange shirt beside oranges", ["orange"], id="the colour is no fruit"),
        pytest.param("category, carpet, catalogue", [], id="parts of words do not count"),
        pytest.param("", [], id="empty"),
    ],
)
def test_objects_named(text: str, expect: list[str]) -> None:
    assert named(text) == expect


def test_judgement_with_spans() -> None:
    answer = "A cat, a dog and a hot dog."
    judgement = COCO.judge(answer, json.dumps(["cat", "chair"]))
    assert judgement == Judgement(mentions=3, hallucinated=2, covered=1, truth_total=2, spans=((9, 12), (19, 26)))
    assert [answer[start:end] for start, end in judgement.spans] == ["dog", "hot dog"]


def test_nothing_there_and_nothing_named() -> None:
    assert COCO.judge("A wall.", "[]") == Judgement(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("truth", "detail"),
    [
        pytest.param("cat", "is not JSON", id="not JSON"),
        pytest.param('{"cat": 1}', "is not a list", id="not a list"),
        pytest.param('["cat", 3]', "is not a list of texts", id="not texts"),
        pytest.param('["kitty"]', "'kitty', which is none of COCO's 80 classes", id="unknown class"),
    ],
)
def test_bad_truth_is_a_bad_row(truth: str, detail: str) -> None:
    with pytest.raises(BadRow, match="bad-truth") as error:
        COCO.judge("a cat", truth)
    assert detail in error.value.detail


def test_every_class_is_found_by_its_own_name_and_every_phrase_once() -> None:
    table = tomllib.loads(files(benchmarks).joinpath("coco_objects.toml").read_text(encoding="utf-8"))
    phrases = [phrase for phrases in table["classes"].values() for phrase in phrases] + table["other"]["phrases"]
    assert [phrase for phrase, count in Counter(phrases).items() if count > 1] == []
    assert len(LEXICON.classes) == 80
    singular = LEXICON.classes - {"orange"}
    assert {name: named(f"a {name} here") for name in singular} == {name: [name] for name in singular}


def test_shapes_benchmark() -> None:
    truth = '{"objects":[{"place":"top left","color":"red","shape":"circle"}]}'
    answer = "top left has a red circle. middle left has a blue cross."
    judgement = benchmark("shapes").judge(answer, truth)
    assert judgement == Judgement(mentions=2, hallucinated=1, covered=1, truth_total=1, spans=((27, 55),))
    assert answer[27:55] == "middle left has a blue cross"
    marked = benchmark("shapes").judge(answer, truth.replace("}", ',"expected":true}', 1))
    assert (marked.expected, marked.expected_covered) == (1, 1)
    with pytest.raises(BadRow, match="bad-truth"):
        benchmark("shapes").judge(answer, "{}")


@given(st.text(max_size=80), st.lists(st.sampled_from(sorted(LEXICON.classes)), unique=True))
def test_any_text_can_be_judged(text: str, truth: list[str]) -> None:
    judgement = COCO.judge(text, json.dumps(truth))
    assert 0 <= judgement.hallucinated <= judgement.mentions
    assert len(judgement.spans) == judgement.hallucinated
    assert 0 <= judgement.covered <= judgement.truth_total == len(truth)
    ends = [0, *(position for span in judgement.spans for position in span), len(text)]
    assert ends == sorted(ends)


# ── official benchmarks, an answer at a time ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("judge", "answer", "truth", "expect"),
    [
        pytest.param(
            benchmark("chair", "noun"), "A man with hot dogs, a dog.", '["person", "dog", "chair"]',
            Judgement(mentions=3, hallucinated=1, covered=2, truth_total=3), id="chair: a hot dog is no dog",
        ),
        pytest.param(
            benchmark("chair", "singularize"), "Chairs and chairs.", "[]",
            Judgement(mentions=2, hallucinated=2, covered=0, truth_total=0), id="chair: repeats count",
        ),
        pytest.param(
            benchmark("pope"), "Yes, there is.", "yes",
            Judgement(1, 0, 1, 1, closed=Closed(right=True, said=True, true=True)), id="pope: rightly yes",
        ),
        pytest.param(
            benchmark("pope"), "NO", "no",
            Judgement(1, 1, 0, 0, closed=Closed(right=False, said=True, true=False)), id="pope: NO means yes",
        ),
        pytest.param(
            benchmark("pope"), "There is not.", "yes",
            Judgement(0, 0, 0, 1, closed=Closed(right=False, said=False, true=True)), id="pope: wrongly no",
        ),
        pytest.param(
            benchmark("amber"), " No\n", '{"type": "relation", "truth": "no"}',
            Judgement(0, 0, 0, 0, closed=Closed(right=True, said=True, true=True)), id="amber: no is looked for",
        ),
        pytest.param(
            benchmark("amber"), "No.", '{"type": "discriminative-hallucination", "truth": "no"}',
            Judgement(0, 0, 0, 0, closed=Closed(right=False, said=False, true=True)), id="amber: No. is no No",
        ),
        pytest.param(
            benchmark("mmstar"), "(B) 12", "B",
            Judgement(0, 0, 0, 0, closed=Closed(right=True)), id="mmstar: the letter",
        ),
        pytest.param(
            benchmark("mmstar"), "The correct answer is B", "b",
            Judgement(0, 0, 0, 0, closed=Closed(right=False)), id="mmstar: not at the beginning",
        ),
    ],
)  # fmt: skip
def test_official_benchmarks_judge_one_answer(judge: Benchmark, answer: str, truth: str, expect: Judgement) -> None:
    assert judge.judge(answer, truth) == expect


def test_a_description_of_amber_is_judged_by_what_it_names() -> None:
    """The light never counts, the person is covered by the man, and the kite is neither true nor said to be false."""
    judge = Amber(tagger=lambda texts: ["".join("n" if len(word) > 2 else "-" for word in text) for text in texts])
    truth = json.dumps({"id": 1, "type": "generative", "truth": ["person", "grass"], "hallu": ["dog"]})
    found = judge.judge("A man, a dog, a kite, a light", truth)
    assert found == Judgement(mentions=4, hallucinated=2, covered=1, truth_total=2)


@pytest.mark.parametrize(
    ("kind", "truth", "detail"),
    [
        ("chair", '["kitty"]', "'kitty', which is none of COCO's 80 classes"),
        ("pope", "Yes", "the truth is 'Yes'; give yes or no"),
        ("amber", "no", "'no' is not JSON; give one of annotations.json"),
        ("amber", "[1]", "is no object; give that of AMBER's annotations.json"),
        ("amber", '{"type": "generative", "truth": ["smurf"], "hallu": []}', "relation.json has no word 'smurf'"),
        ("amber", '{"type": "other", "truth": "no"}', "the type is 'other'; give generative or one of"),
        ("mmstar", "AB", "the truth is 'AB'; give the letter of the right option"),
    ],
)
def test_a_truth_of_another_kind_is_a_bad_row(kind: BenchmarkType, truth: str, detail: str) -> None:
    with pytest.raises(BadRow, match="bad-truth") as error:
        benchmark(kind, "noun").judge("a cat", truth)
    assert detail in error.value.detail
