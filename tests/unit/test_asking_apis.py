"""`feedback evaluate --api`: a model behind an API answers a benchmark's questions."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from feedback_workloads.benchmarks.__main__ import main
from tests.unit.judges import Answer, completion, judge_that
from tests.unit.test_data_sources import jpeg

NAMES = [f"COCO_val2014_{number:012}.jpg" for number in (1, 2)]


def asked_about(body: Mapping[str, Any]) -> tuple[int, str]:
    """The shade of the picture and the question."""
    picture, question = body["messages"][-1]["content"]
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    pixel = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0]), question["text"]


@pytest.fixture
def pope(tmp_path: Path) -> list[str]:
    """Arguments but for the API: two questions about each of two pictures, of which one shows a dog."""
    rows = [
        {"question_id": 2 * n + m + 1, "image": name, "text": f"Is there a {what}?", "label": label}
        for n, name in enumerate(NAMES)
        for m, (what, label) in enumerate((("dog", "yes" if n else "no"), ("cat", "no")))
    ]
    (tmp_path / "coco_pope_random.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for n, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(jpeg(200 * n))
    questions = str(tmp_path / "coco_pope_random.json")
    named = ["--questions", questions, "--truth", questions, "--pictures", str(tmp_path)]
    return ["--benchmark", "pope", "--model", "sees", *named, "--out", str(tmp_path / "out")]


def test_a_model_behind_an_api_is_asked_with_its_picture(
    pope: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the dog, and says nothing of one cat; a second command asks nothing."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")

    def says(body: Mapping[str, Any]) -> Answer:
        shade, question = asked_about(body)
        if shade < 100 and "cat" in question:
            return completion({"refusal": "I cannot say."})
        return "Yes, there is. " if shade > 100 and "dog" in question else "No."

    with judge_that(says) as api:
        assert main([*pope, "--api", f"{api.address}/", "--max-new-tokens", "16"]) == 0
        assert main([*pope, "--api", api.address, "--max-new-tokens", "16"]) == 0
        assert len(api.bodies) == 4
        assert main([*pope, "--api", api.address, "--max-new-tokens", "8"]) == 2, "another setting, the same folder"
    assert {(body["model"], body["temperature"], body["max_completion_tokens"]) for body in api.bodies} == {
        ("sees", 0.0, 16)
    }
    assert {headers["Authorization"] for headers in api.headers} == {"Bearer secret"}
    answers = json.loads((tmp_path / "out/answers.json").read_text())
    assert [row["answer"] for row in answers] == ["No.", "", "Yes, there is.", "No."]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]
    assert metrics["random.Accuracy"] == 0.75  # what says nothing means yes


def test_to_yes_or_no_the_first_word_is_the_answer(tmp_path: Path) -> None:
    truth = tmp_path / "data"
    truth.mkdir()
    types = "discriminative-hallucination"
    (truth / "annotations.json").write_text(
        json.dumps([{"id": n, "type": types, "truth": "no"} for n in range(1, 1008)])
    )
    (truth / "relation.json").write_text(json.dumps({"dog": []}))
    (truth / "safe_words.txt").write_text("")
    said = {1005: "no, there is not", 1006: "Yes!", 1007: "Perhaps"}
    queries = [{"id": n, "image": NAMES[0], "query": f"Is it {n}?"} for n in said]
    (tmp_path / "query_all.json").write_text(json.dumps(queries))
    (tmp_path / NAMES[0]).write_bytes(jpeg(1))
    with judge_that(lambda body: said[int(asked_about(body)[1][6:-1])]) as api:
        code = main(["--benchmark", "amber", "--api", api.address, "--model", "sees", "--truth", str(truth),
                     "--questions", str(tmp_path / "query_all.json"), "--pictures", str(tmp_path),
                     "--out", str(tmp_path / "out")])  # fmt: skip
    assert code == 0
    answers = json.loads((tmp_path / "out/answers.json").read_text())
    assert [row["response"] for row in answers] == ["No", "Yes", "Perhaps"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--api", "localhost:8000"], "--api localhost:8000 is no address; give one such as http://localhost:8000/v1"),
        (["--api", "http://h/v1", "--revision", "main"], "--api http://h/v1 is where --model is asked by its name"),
    ],
)
def test_what_is_wrong_is_told(
    pope: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*pope, *more]) == 2
    assert message in capsys.readouterr().err


def test_a_refusal_of_the_api_is_told(pope: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with judge_that(lambda body: 401) as api:
        assert main([*pope, "--api", api.address]) == 2
    told = capsys.readouterr().err
    assert f"evaluate: the model's API {api.address}/chat/completions wants another key" in told
    assert told.endswith("; set OPENAI_API_KEY\n")
