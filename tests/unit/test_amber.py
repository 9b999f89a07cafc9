"""AMBER: what a description names, and how yes-or-no answers are counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.benchmarks.amber import Amber, Picture, Words, YesNo, discriminative, read_questions, read_words
from feedback_workloads.benchmarks.official import Scores
from feedback_workloads.contract import BadInput
from tests.public import SAMPLES

ASSOCIATED = {
    "person": ["people", "man"], "man": [], "boat": ["ship"], "ship": [], "grass": ["ground"], "ground": ["floor"],
    "TV": [], "dog": [], "light": [], "kite": [],
}  # fmt: skip


def words(*alike: tuple[str, str]) -> Words:
    pairs: dict[str, frozenset[str]] = {}
    for one, other in alike:
        pairs[one] = pairs.get(one, frozenset()) | {other}
        pairs[other] = pairs.get(other, frozenset()) | {one}
    known = frozenset({*ASSOCIATED, "people", "floor"})
    return Words(ASSOCIATED, frozenset({"light"}), pairs, known)


@pytest.mark.parametrize(
    ("true", "false", "nouns", "hallucinated", "covered", "hit"),
    [
        pytest.param(
            ["dog", "boat"], ["kite"], ["dog", "kite", "kite"], ["kite", "kite"], {0}, {0}, id="repeats count"
        ),
        pytest.param(["dog"], ["kite"], ["tv", "car"], [], set(), set(), id="words that are not of the benchmark"),
        pytest.param(["dog"], ["kite"], ["boat"], ["boat"], set(), set(), id="neither true nor false is hallucinated"),
        pytest.param(["dog"], ["light"], ["light"], [], set(), set(), id="a safe word never counts, not even as hit"),
        pytest.param(["boat"], [], ["ship"], [], {0}, set(), id="an associate covers"),
        pytest.param(["dog"], ["boat"], ["ship"], ["ship"], set(), {0}, id="an associate hits"),
        pytest.param(["ground", "grass"], [], ["ground"], [], {1}, set(), id="associates come before the word itself"),
        pytest.param(["ground", "grass"], [], ["floor"], [], {0}, set(), id="so ground is covered by floor alone"),
        pytest.param(
            ["ship", "ship"], [], ["ship", "ship"], [], {0}, set(), id="a word that is there twice covers once"
        ),
        pytest.param(["dog"], ["dog"], ["dog"], [], {0}, set(), id="truth wins"),
        pytest.param(["person", "man"], [], ["man"], [], {0}, set(), id="man is a person's associate first"),
        pytest.param(["TV"], [], ["TV"], [], {0}, set(), id="capitals matter"),
    ],
)
def test_descriptions(
    true: list[str], false: list[str], nouns: list[str], hallucinated: list[str], covered: set[int], hit: set[int]
) -> None:
    found = words().judge(nouns, Picture(tuple(true), tuple(false)))
    assert (list(found.hallucinated), found.covered, found.hit) == (hallucinated, covered, hit)


@pytest.mark.parametrize(
    ("true", "false", "hallucinated", "covered", "hit"),
    [
        pytest.param(["boat"], [], [], {0}, set(), id="like a true word: covered"),
        pytest.param(["dog"], ["boat"], ["kite"], set(), {0}, id="like a false word: hit, and hallucinated"),
        pytest.param(["boat"], ["kite"], [], {0}, {0}, id="false itself and like a true word: hit, not hallucinated"),
        pytest.param([], ["boat", "kite"], ["kite"], set(), {0, 1}, id="itself, and the first that it is like"),
        pytest.param([], ["kite", "boat"], ["kite"], set(), {0}, id="itself is the first that it is like"),
    ],
)
def test_words_that_are_alike(
    true: list[str], false: list[str], hallucinated: list[str], covered: set[int], hit: set[int]
) -> None:
    found = words(("boat", "kite")).judge(["kite"], Picture(tuple(true), tuple(false)))
    assert (list(found.hallucinated), found.covered, found.hit) == (hallucinated, covered, hit)


def answered(kind: str, *counts: tuple[str, str, int]) -> list[tuple[YesNo, str]]:
    return [(YesNo(kind, truth), said) for truth, said, number in counts for _ in range(number)]


def test_existence_is_all_no_and_so_its_precision_is_whole() -> None:
    found = discriminative(answered("discriminative-hallucination", ("no", "No", 2), ("no", "Yes", 1)))
    # 2 of 2.001 is 100.0 rounded; recall 2 of 3.001 is 66.6; F1 = 2 * 0.666 / (1.666 + 0.001).
    assert found == {"Existence": {"Accuracy": 66.6, "Precision": 100.0, "Recall": 66.6, "F1": 79.9}}


def test_only_yes_and_no_as_they_stand_are_right() -> None:
    said = [
        ("yes", "Yes", 1),
        ("yes", "yes", 1),
        ("yes", "Yes.", 1),
        ("no", "no", 1),
        ("no", "No.", 1),
        ("no", "No", 1),
    ]
    found = discriminative(answered("relation", *said))["Relation"]
    assert found == {"Accuracy": 33.3, "Precision": 99.9, "Recall": 33.3, "F1": 49.9}


def test_f1_is_of_rounded_percentages_and_attributes_are_pooled() -> None:
    said = [
        *answered("discriminative-attribute-state", ("no", "No", 2), ("no", "Yes", 1), ("yes", "No", 1)),
        *answered("discriminative-attribute-number", ("yes", "Yes", 3)),
    ]
    found = discriminative(said)
    # Two of three noes are right: 2 / 3.003 is 66.6 pooled from three counters, 2 / 3.001 is 66.6 of one.
    assert found["Attribute"] == {"Accuracy": 71.4, "Precision": 66.6, "Recall": 66.6, "F1": 66.6}
    assert found["State"] == {"Accuracy": 50.0, "Precision": 66.6, "Recall": 66.6, "F1": 66.6}
    assert found["Number"] == {"Accuracy": 100.0, "Precision": 0.0, "Recall": 0.0, "F1": 0.0}
    assert "Discriminative" not in found, "numbers of the whole are of the whole"


def test_the_whole(tmp_path: Path) -> None:
    questions: list[tuple[str, str | list[str], list[str]]] = [
        ("generative", ["dog", "boat"], ["kite"]),
        ("generative", ["person"], ["dog"]),
        ("discriminative-hallucination", "no", []),
        ("discriminative-attribute-action", "yes", []),
        ("discriminative-relation", "yes", []),
        ("relation", "no", []),
    ]
    texts = ["a dog, a kite", "people", "No", "Yes", "Yes", "Yes"]
    found = score(tmp_path, questions, [{"id": n, "response": text} for n, text in enumerate(texts, 1)])
    assert found.metrics == {
        # One of 3.001 nouns; dog and person of 3.001 true words; one of two answers; kite of 2.001 false words.
        "CHAIR": 0.333, "Cover": 0.666, "Hal": 0.5, "Cog": 0.5,
        # Three of four right; one No, right, of two: 1 / 1.001 = 99.9, 1 / 2.001 = 50.0.
        "Accuracy": 0.75, "Precision": 0.999, "Recall": 0.5, "F1": 0.666,
        "Existence.Accuracy": 0.999, "Existence.Precision": 0.999, "Existence.Recall": 0.999, "Existence.F1": 0.999,
        "Attribute.Accuracy": 0.997, "Attribute.Precision": 0.0, "Attribute.Recall": 0.0, "Attribute.F1": 0.0,
        "Action.Accuracy": 0.999, "Action.Precision": 0.0, "Action.Recall": 0.0, "Action.F1": 0.0,
        "Relation.Accuracy": 0.5, "Relation.Precision": 0.0, "Relation.Recall": 0.0, "Relation.F1": 0.0,
        "AMBER": 0.6665,
    }  # fmt: skip
    assert found.result["descriptions"] == [
        {"id": 1, "nouns": ["dog", "kite"], "hallucinated": ["kite"]},
        {"id": 2, "nouns": ["people"], "hallucinated": []},
    ]


def score(folder: Path, questions: list[tuple[str, Any, list[str]]], answers: Any, **files: str) -> Scores:
    truth = folder / "data"
    truth.mkdir()
    rows = [
        {"id": number, "type": kind, "truth": true} | ({"hallu": false} if kind == "generative" else {})
        for number, (kind, true, false) in enumerate(questions, 1)
    ]
    (truth / "annotations.json").write_text(json.dumps(rows))
    (truth / "relation.json").write_text(json.dumps(ASSOCIATED))
    (truth / "safe_words.txt").write_text("light\nsign")
    for name, text in files.items():
        (truth / f"{name}.txt").write_text(text)
    file = folder / "answers.json"
    file.write_text(json.dumps(answers))
    return Amber(all_nouns).score(file, truth, {})


def all_nouns(texts: Sequence[Sequence[str]]) -> list[str]:
    return ["n" * len(text) for text in texts]


DESCRIBE = ("generative", ["dog"], ["kite"])


def test_pairs_of_words_that_are_alike(tmp_path: Path) -> None:
    found = score(tmp_path, [DESCRIBE], [{"id": 1, "response": "a boat"}], similar="boat dog\n")
    assert (found.metrics["CHAIR"], found.metrics["Cover"], found.notes) == (0, 0.999, ())


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        pytest.param(
            [DESCRIBE], [{"id": 2, "response": ""}], "row 1: there is no question 2; the field 'id'", id="number"
        ),
        pytest.param([DESCRIBE], [{"id": 1, "response": ""}] * 2, "row 2: question 1 is answered in", id="twice"),
        pytest.param([DESCRIBE], [{"id": "1"}], "the field 'id' is \"1\"; give an integer", id="text"),
        pytest.param([DESCRIBE], [{"id": 1}], "row 1: there is no field 'response'", id="no answer"),
        pytest.param(
            [("relation", "maybe", [])], [{"id": 1}], "row 1: the truth is 'maybe'; give yes or no", id="truth"
        ),
        pytest.param(
            [("existence", "no", [])], [{"id": 1}], "row 1: the type is 'existence'; give generative or", id="type"
        ),
        pytest.param([("generative", ["lamp"], [])], [{"id": 1}], "relation.json has no word 'lamp'", id="word"),
    ],
)
def test_bad_files(tmp_path: Path, questions: Any, answers: Any, message: str) -> None:
    with pytest.raises(BadInput) as error:
        score(tmp_path, questions, answers)
    assert message in str(error.value)


def test_bad_pairs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"similar.txt, line 2: 'boat' is no pair; give two words"):
        score(tmp_path, [DESCRIBE], [{"id": 1, "response": ""}], similar="boat dog\nboat\n")


def test_the_authors_words_and_questions() -> None:
    """What is known of the published files: where a true word stands for another one, as the scorer has it."""
    known = read_words(SAMPLES / "amber")
    questions = read_questions(SAMPLES / "amber", known)
    pictures = [one for one in questions if isinstance(one, Picture)]
    assert (len(questions), len(pictures), len(known.known), len(known.associated)) == (15_220, 1_004, 418, 340)
    assert (sum(len(one.true) for one in pictures), sum(len(one.false) for one in pictures)) == (5_599, 4_924)
    elsewhere = [
        {
            word
            for number, word in enumerate(one.true)
            if one.true.index(word) == number and number not in covered(known, word, one)
        }
        for one in pictures
    ]
    assert (sum(map(bool, elsewhere)), sum(map(len, elsewhere))) == (275, 335)
    assert sum(len(set(one.true)) < len(one.true) for one in pictures) == 14
    assert sum(bool(set(one.true) & set(one.false)) for one in pictures) == 61


def covered(known: Words, word: str, picture: Picture) -> frozenset[int]:
    """What naming one of a picture's words covers, safe or not."""
    return Words(known.associated, frozenset(), {}, known.known).judge([word], picture).covered
