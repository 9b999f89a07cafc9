"""`feedback score`: what a table of answers is asked, what comes out of it, and what an interruption costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_workloads.contract import BadInput
from feedback_workloads.data.__main__ import main
from feedback_workloads.data.score import score
from feedback_workloads.models.pictures import data_url
from tests.unit.judges import Answer, Sent, failure, judge_that
from tests.unit.test_data_sources import jpeg

REWARD = {"reward": 0.5, "logp": -4.0, "ref_logp": -9.0, "tokens": 10, "not_scored": None}


def worth(body: Mapping[str, Any]) -> Answer:
    """Half a point for each answer, but one that is too long."""
    if body["documents"] == ["long"]:
        return failure(400, "context_length_exceeded")
    one = {"index": 0, "score": 0.5, "logp": -4.0, "ref_logp": -9.0, "tokens": 10}
    return Sent({"data": [one], "model": "aligned"})


def rows(folder: Path) -> list[dict[str, Any]]:
    (folder / "a.jpg").write_bytes(jpeg(1))
    return [
        {"image": "a.jpg", "question": "What?", "answer": "A cat.", "note": {"by": "x"}},
        {"image": "gone.jpg", "question": "What?", "answer": "A dog.", "note": None},
        {"image": "a.jpg", "question": "What?", "answer": "long", "note": None},
        {"image": "a.jpg", "question": "What?", "answer": "", "note": None},
    ]


def written(folder: Path, kind: str) -> Path:
    file = folder / f"answers.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(folder)))
    else:
        pq.write_table(pa.Table.from_pylist(rows(folder)), file)
    return file


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    return pq.read_table(file).to_pylist()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_table_comes_out_with_rewards(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = written(tmp_path, kind), tmp_path / "new" / f"scored.{kind}"
    with judge_that(worth, "/v1/score") as server:
        arguments = ["score", str(file), f"--out={out}", f"--api={server.address}", "--model=aligned"]
        assert main(arguments) == 0
        assert main(arguments) == 2
    found = read(out)
    assert [{name: row[name] for name in ("image", "question", "answer", "note")} for row in found] == rows(tmp_path)
    assert {name: found[0][name] for name in REWARD} == REWARD
    assert [row["reward"] for row in found[1:]] == [None] * 3
    gone, long, empty = (row["not_scored"] for row in found[1:])
    assert "missing-picture: the file 'gone.jpg' cannot be read" in gone
    assert "context_length_exceeded" in long
    assert empty == "empty-answer: the answer is empty"
    told = capsys.readouterr()
    assert told.out == "scored      1\nnot_scored  3\n"
    assert f"data score: {out} is there already; name another file by --out" in told.err
    picture, text = server.bodies[0]["messages"][0]["content"]
    assert picture["image_url"]["url"] == data_url(jpeg(1))
    assert text == {"type": "text", "text": "What?"}
    assert list(out.parent.iterdir()) == [out]


def test_a_command_that_was_interrupted_asks_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    file, out = tmp_path / "answers.jsonl", tmp_path / "scored.jsonl"
    given = [{"image": "a.jpg", "question": "What?", "answer": f"answer {number}"} for number in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    ended = [False]

    def says(body: Mapping[str, Any]) -> Answer:
        return worth(body) if ended[0] or len(server.bodies) < 4 else failure(401, "expired")

    with judge_that(says, "/v1/score") as server:
        with pytest.raises(BadInput, match=r"the server .*/v1/score wants another key .*; set OPENAI_API_KEY"):
            score(file, out, api=server.address, model="aligned", concurrency=1)
        assert not out.exists()
        ended[0] = True
        assert score(file, out, api=server.address, model="aligned") == {"scored": 6, "not_scored": 0}
    asked = [body["documents"][0] for body in server.bodies]
    assert len(asked) == 7
    assert sorted(asked)[3:5] == ["answer 3", "answer 3"], "the one that was refused"
    assert [row["answer"] for row in read(out)] == [row["answer"] for row in given]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x", r"a.csv is neither \*.parquet nor \*.jsonl"),
        ("a.jsonl", '{"image": "x", "question": "y"}\n', r"a.jsonl, line 1 has no column 'answer' \(its columns are"),
        ("a.jsonl", '{"image": "x", "question": "y", "answer": "z", "reward": 1}', r"has a column 'reward' already"),
        ("a.jsonl", "{", r"a.jsonl, line 1 is not JSON"),
        ("a.jsonl", "[]", r"a.jsonl, line 1 is not a JSON object"),
        ("a.parquet", "PAR", r"a.parquet is not a readable parquet file"),
    ],
)
def test_what_is_no_table_of_answers(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with judge_that(worth, "/v1/score") as server, pytest.raises(BadInput, match=message):
        score(tmp_path / name, tmp_path / f"out{Path(name).suffix}", api=server.address, model="aligned")


def test_another_kind_of_server_is_told(tmp_path: Path) -> None:
    """vLLM's own /score gives a similarity, and no log-probabilities."""
    file = written(tmp_path, "jsonl")
    with (
        judge_that(lambda _: Sent({"data": [{"index": 0, "score": 0.5}]}), "/v1/score") as server,
        pytest.raises(
            BadInput, match=r"aligned of the server does not keep to the form .*; name another model by --model"
        ),
    ):
        score(file, tmp_path / "out.jsonl", api=server.address, model="aligned")
