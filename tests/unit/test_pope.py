"""POPE: what an answer means, and how answers find their questions; published F1 is in test_published_numbers.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback_workloads.benchmarks.official import Scores
from feedback_workloads.benchmarks.pope import Pope, says_yes
from feedback_workloads.contract import BadInput


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("No", False),
        ("no", False),
        ("No.", False),
        ("no, there is none", False),
        ("No, it is not there", False),
        ("There is not", False),
        ("not", False),
        ("Yes", True),
        ("Yes. No dog", True),
        pytest.param("0.5 no", True, id="a decimal point ends the first sentence"),
        pytest.param("NO", True, id="NO is yes"),
        pytest.param("none", True, id="none is yes"),
        pytest.param("It isn't", True, id="isn't is yes"),
        pytest.param("", True, id="an empty answer is yes"),
        pytest.param("\nNo", True, id="No in a second line is yes"),
        pytest.param("a snow no", False, id="anywhere in the sentence"),
        pytest.param(" no ", False, id="blanks around"),
        pytest.param("(no)", True, id="brackets"),
    ],
)
def test_what_an_answer_means(answer: str, yes: bool) -> None:
    assert says_yes(answer) is yes


QUESTIONS = [
    ("Is there a dog?", "yes"),
    ("Is there a cat?", "yes"),
    ("Is there a bed?", "no"),
    ("Is there a cup?", "no"),
]


def questions(file: Path, of: list[tuple[str, str]] = QUESTIONS) -> Path:
    file.write_text(
        "".join(f"{json.dumps({'question_id': n, 'text': t, 'label': yes})}\n" for n, (t, yes) in enumerate(of, 1))
    )
    return file


def score(answers: list[dict[str, object]], truth: Path) -> Scores:
    file = truth.parent / "answers.json"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in answers))
    return Pope().score(file, truth, {})


def test_numbers_of_one_sampling(tmp_path: Path) -> None:
    answers = [
        {"question": text, "answer": said}
        for (text, _), said in zip(QUESTIONS, ["Yes", "No", "Yes", "No"], strict=True)
    ]
    found = score([*answers[:2], {"answer": "No"}, answers[3]], questions(tmp_path / "coco_pope_popular.json"))
    assert found.metrics == {
        "popular.Accuracy": 3 / 4, "popular.Precision": 1, "popular.Recall": 1 / 2, "popular.F1 score": 2 / 3,
        "popular.Yes ratio": 1 / 4,
    }  # fmt: skip
    assert {name: found.result["popular"][name] for name in ("TP", "FP", "TN", "FN")} == {  # type: ignore[index]
        "TP": 1, "FP": 0, "TN": 2, "FN": 1
    }  # fmt: skip


def test_nobody_says_yes(tmp_path: Path) -> None:
    found = score([{"text": "No"}] * 4, questions(tmp_path / "mine.json"))
    assert found.metrics["mine.json.Precision"] is None
    assert found.metrics["mine.json.F1 score"] is None
    assert found.metrics["mine.json.Recall"] == 0


def folder_of_llava(folder: Path) -> Path:
    questions(folder / "coco_pope_random.json", QUESTIONS[:2])
    questions(folder / "coco_pope_adversarial.json", QUESTIONS[2:])
    categories = {7: "adversarial", 8: "random", 9: "adversarial", 10: "random"}
    rows = [{"question_id": number, "category": category} for number, category in categories.items()]
    (folder / "llava_pope_test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_answers_of_llava_are_parted_by_category_and_then_stand_in_order(tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    answers: list[dict[str, object]] = [
        {"question_id": number, "prompt": f"{text}\nAnswer by a word.", "text": said}
        for number, (text, _), said in zip(
            (7, 8, 9, 10), (QUESTIONS[i] for i in (2, 0, 3, 1)), ("No", "Yes", "Yes", "Yes"), strict=True
        )
    ]
    found = score(answers, folder_of_llava(tmp_path / "truth"))
    assert (found.metrics["random.F1 score"], found.metrics["adversarial.Accuracy"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([{"answer": "No"}] * 3, "there are 3 answers to the 4 questions from", id="too few"),
        pytest.param([{"said": "No"}] * 4, "line 1: there is no field 'answer' or 'text' (its fields", id="field"),
        pytest.param(
            [{"question": "Is there a bed?", "answer": "No"}] * 4,
            "line 1: this answers 'Is there a bed?', where",
            id="answers to other questions",
        ),
    ],
)
def test_bad_answers(tmp_path: Path, answers: list[dict[str, object]], message: str) -> None:
    with pytest.raises(BadInput) as error:
        score(answers, questions(tmp_path / "coco_pope_random.json"))
    assert message in str(error.value)


def test_bad_truth(tmp_path: Path) -> None:
    file = questions(tmp_path / "coco_pope_random.json", [("Is there a dog?", "maybe")])
    with pytest.raises(BadInput, match=r"coco_pope_random.json, line 1: the label is 'maybe'; give yes or no"):
        score([{"answer": "No"}], file)
    (tmp_path / "truth").mkdir()
    with pytest.raises(
        BadInput, match=r"truth: there is no coco_pope_\*.json in it; give the questions of one sampling"
    ):
        score([{"answer": "No"}], tmp_path / "truth")
    questions(tmp_path / "truth/coco_pope_random.json")
    with pytest.raises(BadInput, match=r"truth: there is no llava_pope_test.jsonl in it"):
        score([{"answer": "No"}], tmp_path / "truth")
    folder_of_llava(tmp_path / "truth")
    with pytest.raises(BadInput, match=r"line 1: question_id 3 is of none of the samplings"):
        score([{"question_id": 3, "text": "No"}], tmp_path / "truth")
