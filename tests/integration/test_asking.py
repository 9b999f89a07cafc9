"""`feedback evaluate --model`: a model is asked a benchmark's questions, and its answers are judged as anybody's."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.benchmarks.__main__ import main
from feedback_workloads.benchmarks.asking import ANSWERS, SAID, picture
from feedback_workloads.contract import BadInput, ExitCode
from feedback_workloads.models.families import family_of
from feedback_workloads.rows.json_files import Row
from tests.integration.models import picture as encoded
from tests.integration.models import tiny_llava
from tests.models.reference import load, processed

TOKENS = 6
POPE = "coco_pope_random.json"
QUESTIONS = [
    {"question_id": 1, "image": "a.png", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "b.png", "text": "Is there a cat in the image?", "label": "no"},
    {"question_id": 3, "image": "a.png", "text": "Is there a cow in the image?", "label": "no"},
]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        (folder / name).write_bytes(encoded(number))
    return folder


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def evaluate(model: Path, benchmark: str, out: Path, **given: Path | str | int) -> int:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return main(
        [f"--benchmark={benchmark}", f"--model={model}", f"--out={out}", f"--max-new-tokens={TOKENS}", *options]
    )


def answers(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / ANSWERS).read_text())
    return found


def greedy(model: Path, question: str, data: bytes) -> str:
    """What transformers has the model say."""
    family = family_of(model)
    inputs = processed(family, [question], [data])
    said = load(model).generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[0]
    return family.answer(said[inputs["input_ids"].shape[1] :].tolist()).strip()


def test_pope(llava: Path, pictures: Path, tmp_path: Path) -> None:
    """The answers stand in the order of the questions, and are what a file of answers would have been judged as."""
    questions = written(tmp_path / POPE, QUESTIONS)
    out = tmp_path / "out"
    assert evaluate(llava, "pope", out, questions=questions, truth=questions, pictures=pictures) == ExitCode.DONE
    said = answers(out)
    assert [(row["question_id"], row["image"], row["question"]) for row in said] == [
        (row["question_id"], row["image"], row["text"]) for row in QUESTIONS
    ]
    assert all(row.keys() == {"question_id", "image", "question", "answer"} for row in said)
    assert [row["answer"] for row in said] == [
        greedy(llava, row["question"], (pictures / row["image"]).read_bytes()) for row in said
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    again = ["--benchmark=pope", f"--answers={out / ANSWERS}", f"--truth={questions}", f"--out={tmp_path / 'again'}"]
    assert main(again) == ExitCode.DONE
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == metrics


def test_an_interrupted_command_goes_on(llava: Path, pictures: Path, tmp_path: Path) -> None:
    """A line that was being written counts for nothing; what had been said is not asked again, nor by another model."""
    questions, out = written(tmp_path / POPE, QUESTIONS), tmp_path / "out"
    given = {"questions": questions, "truth": questions, "pictures": pictures}
    assert evaluate(llava, "pope", out, **given) == ExitCode.DONE
    whole = answers(out)
    first, second, *_ = (out / SAID).read_text().splitlines(keepends=True)
    kept = json.loads(second)
    (out / SAID).write_text(first + json.dumps({**kept, "text": "kept"}) + "\n" + '{"number": 1, "te')
    (out / ANSWERS).unlink()
    assert evaluate(llava, "pope", out, **given) == ExitCode.DONE
    expected = [{**row, "answer": "kept"} if number == kept["number"] else row for number, row in enumerate(whole)]
    assert answers(out) == expected


def test_what_another_model_said_is_left_alone(
    llava: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, out = written(tmp_path / POPE, QUESTIONS), tmp_path / "out"
    out.mkdir()
    (out / SAID).write_text('{"uri": "another"}\n')
    given = {"questions": questions, "truth": questions, "pictures": pictures}
    assert evaluate(llava, "pope", out, **given) == ExitCode.BAD_INPUT
    assert "has what another model, or this one to other questions, said" in capsys.readouterr().err
    assert (out / SAID).read_text() == '{"uri": "another"}\n'


def test_amber_takes_yes_and_no_alone(llava: Path, pictures: Path, tmp_path: Path) -> None:
    """Only "Yes" and "No" can be right there, so they are read off the first token; descriptions are free."""
    rows = [{"id": 1, "image": "a.png", "query": "Describe this image."}]
    rows += [{"id": 1005 + n, "image": "b.png", "query": f"Is there thing {n}?"} for n in range(3)]
    truth = tmp_path / "data"
    truth.mkdir()
    generative = {"type": "generative", "truth": ["dog"], "hallu": []}
    closed = {"type": "discriminative-hallucination", "truth": "no"}
    kinds = [{"id": i, **(generative if i <= 1004 else closed)} for i in range(1, 1008)]
    (truth / "annotations.json").write_text(json.dumps(kinds))
    (truth / "relation.json").write_text('{"dog": []}')
    (truth / "safe_words.txt").write_text("image\n")
    out, questions = tmp_path / "out", written(tmp_path / "query.json", rows[1:])
    assert evaluate(llava, "amber", out, questions=questions, truth=truth, pictures=pictures) == ExitCode.DONE
    assert {row["response"] for row in answers(out)} <= {"Yes", "No"}
    assert all((row["response"] == "Yes") == (row["p_yes"] > row["p_no"]) for row in answers(out))


def test_chair_asks_about_each_picture_of_a_folder(llava: Path, tmp_path: Path) -> None:
    folder = tmp_path / "val2014"
    folder.mkdir()
    for number in (7, 3):
        (folder / f"COCO_val2014_{number:012d}.jpg").write_bytes(encoded(number))
    (tmp_path / "truth.tsv").write_text("3\tcat\n7\tdog\n")
    out = tmp_path / "out"
    options = {"truth": tmp_path / "truth.tsv", "option": "words=noun"}
    assert evaluate(llava, "chair", out, pictures=folder, **options) == ExitCode.DONE
    assert [row["image"] for row in answers(out)] == [f"COCO_val2014_{n:012d}.jpg" for n in (3, 7)]
    assert {row["question"] for row in answers(out)} == {"Please describe this image in detail."}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        pytest.param({"image": "a.png"}, "a", id="by name"),
        pytest.param({"image_id": 7}, "seven", id="by COCO's number"),
        pytest.param({"image_src": "https://x.example/1/a.png", "image_id": "hash"}, "a", id="as its address ends"),
        pytest.param({"image_url": "https://x.example/../../a.png"}, "a", id="within the folder alone"),
        pytest.param({"image_id": 9, "image": base64.b64encode(b"x" * 300).decode()}, "x" * 300, id="in the row"),
        pytest.param({"image": "c.png"}, None, id="not there"),
        pytest.param({"image": "ä" * 300}, None, id="no base64"),
    ],
)
def test_where_a_picture_is(row: dict[str, Any], found: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "COCO_val2014_000000000007.jpg").write_bytes(b"seven")
    if found is not None:
        assert picture(Row("q.json, row 1", row), tmp_path) == found.encode()
        return
    with pytest.raises(BadInput, match=r"q\.json, row 1: "):
        picture(Row("q.json, row 1", row), tmp_path)


def test_a_question_without_words_is_found_before_the_model_is_loaded(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = written(tmp_path / POPE, [{"question_id": 1, "image": "a.png", "label": "no"}])
    given = {"questions": questions, "truth": questions, "pictures": pictures}
    assert evaluate(tmp_path / "no model", "pope", tmp_path / "out", **given) == ExitCode.BAD_INPUT
    assert "there is no field question or query or prompt or text" in capsys.readouterr().err
