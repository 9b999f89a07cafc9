"""MMHal-Bench: what a judge is asked, and what its replies are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.benchmarks.__main__ import main
from feedback_workloads.benchmarks.mmhal import TYPES, MMHal, rating
from feedback_workloads.benchmarks.official import Scores
from feedback_workloads.contract import BadInput
from tests.public import public
from tests.unit.judges import judge_that

TEMPLATE = "Rate it.\n{}|{}|{}|{}\n"


def questions(number: int) -> list[dict[str, Any]]:
    """The first rows of the authors' template, in small."""
    return [
        {
            "question_type": TYPES[n % 8],
            "question_topic": "indoor",
            "image_id": f"{n:016x}",
            "image_src": f"https://photos.example/{n}_o.jpg",
            "image_content": ["Cat", f"Thing {n}"],
            "question": f"What is {n}?",
            "gt_answer": f"It is {n}.",
            "model_answer": "",
        }
        for n in range(number)
    ]


def template(folder: Path, number: int) -> Path:
    file = folder / "response_template.json"
    file.write_text(json.dumps(questions(number)))
    return file


def score(folder: Path, rows: list[dict[str, Any]]) -> Scores:
    (folder / "answers.json").write_text(json.dumps(rows))
    return MMHal().score(folder / "answers.json", template(folder, len(rows)), {})


@pytest.mark.parametrize(
    ("reply", "expect"),
    [
        ("It is right.\n\n- Rating: 5, very informative, no hallucination", 5),
        ("rating: 0", 0),
        pytest.param("RATING: 6", 6, id="in any case"),
        pytest.param("Rating: 3. So again: Rating: 3", 3, id="one rating twice"),
        pytest.param("Rating: 3 or Rating: 4", None, id="two ratings"),
        pytest.param("It is good.", None, id="none"),
        pytest.param("Rating:5", None, id="without a blank"),
        pytest.param("**Rating**: 5", None, id="in bold"),
        pytest.param("Rating: 10", 1, id="ten begins with a one"),
        pytest.param("Rating: 7", None, id="seven is none"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_ratings(reply: str, expect: int | None) -> None:
    """By the authors' loop over "rating: 0" to "rating: 6" in the lower-cased reply (eval_gpt4.py)."""
    assert rating(reply) == expect


def test_numbers(tmp_path: Path) -> None:
    """Sixteen answers, two of each type: below 3 is a hallucination, and what has no one rating counts as 0."""
    said = [6, 2, 3, 0, 5, 4, 1, 3, 4, 2, None, 0, 5, 6, 3, 3]
    rows = [
        {"question": f"What is {n}?", "answer": "x", "gpt4_review": f"Rating: {s}" if s is not None else "?"}
        for n, s in enumerate(said)
    ]
    found = score(tmp_path, rows)
    assert found.metrics == {
        "Average score": 47 / 16,
        "Hallucination rate": 6 / 16,
        # RLHF-V: 6 to 3 give 3 to 0, and 2 to 0 are as they are: 3 2 0 0 2 1 1 0 1 2 0 0 2 3 0 0.
        "Informativeness": pytest.approx(17 / 16 / 3),
        "attribute.Average score": 5,
        "adversarial.Average score": 2,
        "comparison.Average score": 1.5,
        "counting.Average score": 0,
        "relation.Average score": 5,
        "environment.Average score": 5,
        "holistic.Average score": 2,
        "other.Average score": 3,
    }
    assert found.notes == (
        "these are 16 answers, where the benchmark has 96",
        "of 1 answers the judge gave no rating or several, which counts as 0: 11",
    )


def test_what_the_authors_scripts_read(tmp_path: Path) -> None:
    """The result is their list of replies, by its name, too: RLHF-V's summary reads *.mmhal_test_eval*."""
    found = score(tmp_path, [{"answer": "x", "gpt4_review": f"Rating: {n}"} for n in range(7)])
    assert found.file == "answers.mmhal_test_eval.json"
    again = score(tmp_path, json.loads(json.dumps(found.result)))
    assert (again.metrics, again.result) == (found.metrics, found.result)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        pytest.param({"model_answer": " Assistant: it "}, " Assistant: it ", id="the template's stands as it is"),
        pytest.param({"answer": " Assistant: it "}, "it", id="RLHF-V's is cut"),
        pytest.param({"text": "it {} {0}"}, "it {} {0}", id="braces are no places"),
    ],
)
def test_what_the_judge_is_told(row: dict[str, Any], told: str, tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.json", tmp_path / "out"
    answers.write_text(json.dumps([{"question": "What is 0?", **row}]))
    (tmp_path / "eval_gpt_mmhal.py").write_text(f"template = '''{TEMPLATE}'''\n")
    files = [f"--answers={answers}", f"--truth={template(tmp_path, 1)}", f"--judge-prompts={tmp_path}", f"--out={out}"]
    with judge_that(lambda _: "Fine. Rating: 4") as server:
        given = ["--benchmark=mmhal", *files, "--judge=gpt-4-1106-preview", f"--judge-api={server.address}"]
        assert main(given) == 0
        assert main(given) == 0
    assert server.bodies == [
        {
            "model": "gpt-4-1106-preview",
            "messages": [{"role": "user", "content": f"Rate it.\nCat, Thing 0|What is 0?|It is 0.|{told}\n"}],
            "temperature": 0.0,
        }
    ]
    judged = json.loads((out / "judged.json").read_text())
    assert judged == [{**questions(1)[0], "model_answer": told, "gpt4_review": "Fine. Rating: 4"}]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["metrics"]["Average score"] == 4
    assert metrics["judge"]["model"] == "gpt-4-1106-preview"
    assert metrics["judge"]["said_to_be"] == ["judge-2026"]
    # What was judged is replayed, without a judge.
    assert main(["--benchmark=mmhal", f"--answers={out / 'judged.json'}", *files[1:2], f"--out={out / 'again'}"]) == 0
    again = json.loads((out / "again/metrics.json").read_text())
    assert (again["metrics"], "judge" in again) == (metrics["metrics"], False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(
            [{"answer": "x"}], "no field 'gpt4_review' with what a judge said; name one by --judge", id="none"
        ),
        pytest.param(
            [{"question": "What is 7?", "gpt4_review": "Rating: 1"}],
            r"answers.json, row 1: this answers 'What is 7\?', where .* asks 'What is 0\?'; give the answers",
            id="another question",
        ),
        pytest.param([{"choices": []}], "no field 'gpt4_review'", id="an empty reply"),
    ],
)
def test_what_cannot_be_scored(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        score(tmp_path, rows)


def test_answers_have_to_be_whole(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('[{"gpt4_review": "Rating: 1"}]')
    with pytest.raises(BadInput, match=r"has 1 answers to the 2 questions of .*; give one to each, in their order"):
        MMHal().score(tmp_path / "answers.json", template(tmp_path, 2), {})
    swapped = questions(2)[::-1]
    (tmp_path / "response_template.json").write_text(json.dumps(swapped[:1]))
    with pytest.raises(BadInput, match="the question_type is 'adversarial', where the template has 'attribute'"):
        MMHal().score(tmp_path / "answers.json", tmp_path / "response_template.json", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(["--judge=gpt"], "the judge of mmhal needs --judge-prompts: the authors' script", id="no prompts"),
        pytest.param(["--judge=gpt", "--judge-prompts=none"], "eval_gpt_mmhal.py), or its folder (none is", id="gone"),
        pytest.param(["--judge=gpt", "--benchmark=pope"], "no model judges the benchmark pope; leave", id="pope"),
    ],
)
def test_a_judge_that_cannot_be(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.json").write_text("[{}]")
    files = [f"--answers={tmp_path / 'answers.json'}", f"--truth={template(tmp_path, 1)}", f"--out={tmp_path / 'out'}"]
    assert main(["--benchmark=mmhal", *files, *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    "model",
    ["idefics_80b", "idefics_9b", "instructblip_13b", "instructblip_7b", "kosmos_2", "llava_13b", "llava_7b"],
)
def test_the_authors_own_files_of_answers(model: str, tmp_path: Path) -> None:
    """Seven files of 96 answers in the official form: each is asked about once, and the result has its form."""
    answers, truth = public(f"mmhal/responses/{model}.json"), public("mmhal/response_template.json")
    (tmp_path / "eval_gpt4.py").write_text(f"template = '''{TEMPLATE}'''\n")
    with judge_that(lambda body: f"Rating: {len(body['messages'][0]['content']) % 7}") as server:
        files = [f"--answers={answers}", f"--truth={truth}", f"--judge-prompts={tmp_path}", f"--out={tmp_path}"]
        assert main(["--benchmark=mmhal", *files, "--judge=judge", f"--judge-api={server.address}"]) == 0
    rows = json.loads(answers.read_text())
    expected = [
        "Rate it.\n"
        + "|".join([", ".join(r["image_content"]), r["question"], r["gt_answer"], r["model_answer"]])
        + "\n"
        for r in rows
    ]
    assert sorted(server.texts) == sorted(set(expected))
    scores = [len(text) % 7 for text in expected]
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert metrics["Average score"] == pytest.approx(sum(scores) / 96)
    assert metrics["other.Average score"] == pytest.approx(sum(scores[7::8]) / 12)
    assert json.loads((tmp_path / "judged.json").read_text()) == [
        {**row, "gpt4_review": f"Rating: {rated}"} for row, rated in zip(rows, scores, strict=True)
    ]
