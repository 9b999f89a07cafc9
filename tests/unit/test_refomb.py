"""RefoMB: what a judge compares, in which order, and what its verdicts are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.benchmarks.__main__ import main
from feedback_workloads.benchmarks.official import Scores
from feedback_workloads.benchmarks.refomb import RefoMB, verdict
from feedback_workloads.contract import BadInput
from tests.unit.judges import judge_that

QUESTIONS = [
    {
        "image_url": f"https://pictures.example/{number}.jpg",
        "question": "What is there?",
        "description": f"description {number}",
        "type": kind,
        "split": "dev",
        "id": str(number),
        "answer": f"reference {number}",
    }
    for number, kind in enumerate(("OCR", "OCR", "Coarse Perception"))
]
COMPARING = '''
SYSTEM_MSG = "Compare.\\n"
def construct_gpt4_query(text_instruction, image_descriptsion, modelA_answer, modelB_answer):
    return f"""{SYSTEM_MSG}{image_descriptsion}|{text_instruction}|{modelA_answer}|{modelB_answer}"""
'''
SUMMING_UP = '''
SYSTEM_MSG = "Sum up.\\n"
def construct_gpt4_query(review_text):
    return f"""{SYSTEM_MSG}{review_text}"""
def worker(chat, x):
    return get_eval(chat, x, chat_gpt_system="You sum up.", temperature=0.0)
'''
CALLING = 'def get_eval(chat, content, chat_gpt_system="You compare."): pass\n'


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    file = tmp_path / "gpt4v.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in QUESTIONS))
    return file


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "eval"
    folder.mkdir()
    for name, text in (("eval_RefoMB_p0", COMPARING), ("eval_hallucination", SUMMING_UP), ("gpt4", CALLING)):
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """In another order than the questions, which are told apart by their pictures."""
    file = tmp_path / "tiny.json"
    rows = [{"image_url": q["image_url"], "prompt": q["question"], "text": f"tiny {q['id']}"} for q in QUESTIONS[::-1]]
    rows[0]["text"] += "<|endoftext|>"
    file.write_text(json.dumps(rows))
    return file


def says(body: Any) -> str:
    """The longer answer is better; the second call is for B, whatever the first said."""
    said = body["messages"][-1]["content"]
    if said.startswith("Sum up."):
        return f"[[B]], since: {said.splitlines()[1]}"
    *_, first, second = said.split("|")
    return (
        "Both: [[C]]" if len(first) == len(second) else "[[A]] and not [[B]]" if len(first) > len(second) else "[[B]]"
    )


def judged(answers: Path, truth: Path, prompts: Path, *options: str) -> tuple[list[dict[str, Any]], Any, Any]:
    """The rows with what the judge said, the numbers, and what it was asked."""
    out = answers.parent / "out"
    files = [f"--answers={answers}", f"--truth={truth}", f"--judge-prompts={prompts}", f"--out={out}"]
    with judge_that(says) as server:
        judge = ["--judge=gpt-4-1106-preview", f"--judge-api={server.address}"]
        assert main(["--benchmark=refomb", *files, *judge, *(f"--option={option}" for option in options)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    return json.loads((out / "judged.json").read_text()), metrics, server.bodies


def test_as_published(answers: Path, truth: Path, prompts: Path) -> None:
    """The model is B. The second call has the review alone, and other words of the system."""
    rows, metrics, bodies = judged(answers, truth, prompts)
    common = {"model": "gpt-4-1106-preview", "max_tokens": 2048, "top_p": 1.0}
    told = "Compare.\ndescription 2|What is there?|reference 2|tiny 2<EOT>"
    messages = [{"role": "system", "content": "You compare."}, {"role": "user", "content": told}]
    assert {**common, "messages": messages, "temperature": 1e-5} in bodies
    messages = [{"role": "system", "content": "You sum up."}, {"role": "user", "content": "Sum up.\nBoth: [[C]]"}]
    assert {**common, "messages": messages, "temperature": 0.0} in bodies
    assert {**rows[2], "prompt": ""} == {
        "score": 0,
        "review": "Both: [[C]]",
        "review_res": "[[B]], since: Both: [[C]]",
        "prompt": "",
        "image": 2,
        "modelA": "GPT-4V",
        "modelB": "tiny",
        "type_name": "Coarse Perception",
        "question": "What is there?",
        "image_path_list": "https://pictures.example/2.jpg",
        "run": 1,
    }
    # Two losses of OCR and a tie: (0 + 0 + 1/2) / 3.
    assert metrics == {
        "Overall": pytest.approx(1 / 6),
        "OCR.Overall": 0,
        "Coarse Perception.Overall": 0.5,
        "Trustworthiness": 1,
        "OCR.Trustworthiness": 1,
        "Coarse Perception.Trustworthiness": 1,
    }


def test_positions_and_repeats(answers: Path, truth: Path, prompts: Path) -> None:
    """Where the model is A, [[A]] is for it: who is always for B is for neither then, who goes by length as before."""
    rows, metrics, bodies = judged(answers, truth, prompts, "positions=both", "repeats=3")
    assert [(row["run"], row["image"], row["modelA"]) for row in rows] == [
        (run, number, first) for run in (1, 2, 3) for number in (0, 1, 2) for first in ("GPT-4V", "tiny")
    ]
    assert metrics["Overall"] == pytest.approx(1 / 6)
    assert metrics["Trustworthiness"] == 0.5
    comparing = [body for body in bodies if body["temperature"] == 1e-5]
    assert len(comparing) == 3 * 3 * 2


def score(folder: Path, rows: list[dict[str, Any]], truth: Path) -> Scores:
    (folder / "A-GPT-4V_B-tiny.json").write_text(json.dumps(rows))
    return RefoMB().score(folder / "A-GPT-4V_B-tiny.json", truth, {})


def official(review: str, **more: str) -> dict[str, Any]:
    return {"review": review, "type_name": "OCR", "modelA": "GPT-4V", "modelB": "tiny", **more}


def test_what_the_authors_scripts_saved_is_replayed(tmp_path: Path, truth: Path) -> None:
    """Their score = (wins + ties / 2) / n, by json_to_excel.py; the .hall.json has what was made of the reviews."""
    found = score(tmp_path, [official("[[B]]"), official("so [[A]]"), official("[[C]]"), official("[[B]]")], truth)
    assert found.metrics == {"Overall": 2.5 / 4, "OCR.Overall": 2.5 / 4}
    counts = {"win": 2, "loss": 1, "tie": 1}
    assert found.result == {"Overall": {**counts, "types": {"OCR": counts}}}
    assert found.notes == (
        "these are 3 questions, where the benchmark has 99",
        "4 judgements are no whole number of rounds over 3 questions",
    )
    hall = {"score": 1, "review_text": "[[A]]", "review_res": "[[B]]", "type_name": "OCR", "modelB": "tiny"}
    assert score(tmp_path, [hall], truth).metrics == {"Trustworthiness": 1, "OCR.Trustworthiness": 1}


def test_exchanged_positions_are_the_models(tmp_path: Path, truth: Path) -> None:
    """The authors' own score of such a file is GPT-4V's; here numbers are always the model's."""
    found = score(tmp_path, [official("[[A]]", modelA="tiny", modelB="GPT-4V")] * 3, truth)
    assert found.metrics["Overall"] == 1
    assert found.notes[1:] == ("each question was judged once; the authors advise the mean of three rounds or more",)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[A]]", -1),
        ("[[B]]", 1),
        ("[[C]]", 0),
        pytest.param("[[B]] is better than [[A]]", 1, id="the first counts"),
        pytest.param("[[D]] [[A]]", -1, id="others are none"),
        pytest.param("[A] (B) [[a]]", None, id="none"),
    ],
)
def test_verdicts(reply: str, value: int | None) -> None:
    assert verdict(reply) == value


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(
            [{"answer": "x"}], "no field 'review' or 'review_res' with what a judge said; name one", id="none"
        ),
        pytest.param(
            [official("fine")], r"the reply in 'review' has no \[\[A\]\], .*; ask the judge again", id="no verdict"
        ),
    ],
)
def test_what_cannot_be_scored(rows: list[dict[str, Any]], message: str, tmp_path: Path, truth: Path) -> None:
    with pytest.raises(BadInput, match=message):
        score(tmp_path, rows, truth)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        pytest.param(2, "there is no answer to 'What is there.' about https://pictures.example/2.jpg", id="missing"),
        pytest.param(4, "row 4: 'What is there.' about https://pictures.example/0.jpg is answered before", id="twice"),
    ],
)
def test_answers_that_do_not_fit(
    number: int, message: str, tmp_path: Path, truth: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.json").write_text(json.dumps([*QUESTIONS, QUESTIONS[0]][:number]))
    files = [f"--answers={tmp_path / 'answers.json'}", f"--truth={truth}", f"--out={tmp_path / 'out'}"]
    judge = ["--judge=gpt", "--judge-api=http://127.0.0.1:1/v1", f"--judge-prompts={prompts}"]
    assert main(["--benchmark=refomb", *files, *judge]) == 2
    assert message.replace("there.", "there?") in capsys.readouterr().err
