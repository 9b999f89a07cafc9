"""Object HalBench: what a judge listed is replayed, and words count once an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.benchmarks.__main__ import main
from feedback_workloads.benchmarks.coco.objects import refined_vocabulary
from feedback_workloads.benchmarks.judging import Judge
from feedback_workloads.benchmarks.object_halbench import (
    SCRIPT,
    ObjectHalBench,
    listed,
    objects,
    spacy_reader,
    wordnet_phrase,
)
from feedback_workloads.benchmarks.official import Scores, chosen
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row
from tests.unit.judges import judge_that

LONG = "A long enough answer."


def score(folder: Path, rows: list[dict[str, Any]], **options: str) -> Scores:
    file, truth = folder / "model_answer.jsonl", folder / "truth.tsv"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    truth.write_text("1\tperson,chair\n2\tdog,cat\n3\t\n")
    return ObjectHalBench().score(file, truth, chosen(ObjectHalBench.options, {"phrases": "wordnet", **options}))


def row(picture: int, phrases: object, answer: str = LONG) -> dict[str, Any]:
    return {"image_id": picture, "question": "?", "answer": answer, "extract_objs": phrases}


def test_numbers_with_the_judge(tmp_path: Path) -> None:
    rows = [
        # Man and woman are two mentions of person, the chair twice is one, the dog is not there.
        row(1, ["man", "woman", "chair", "chairs", "dog"]),
        # Nothing of COCO: counted among answers, not among those that name an object.
        row(2, ["wall", "tennis player"]),
        # A picture without truth: whatever is named is wrong.
        row(3, ["cup"]),
    ]
    metrics = score(tmp_path, rows).metrics
    assert metrics == {
        "CHAIRs": 2 / 3,
        "CHAIRs_refine": 2 / 2,
        "CHAIRi": 2 / 5,
        "obj_rec": 2 / 4,
        "sentence_num": 3,
        "coco_sentence_num": 2,
        "coco_word_count": 2,
        "gt_word_count": 4,
        "avg_word_len": 4,
        "correct_rate": 0,
        "object_correct_rate": 1 - 2 / 5,
    }


def test_rows_of_the_result(tmp_path: Path) -> None:
    found = score(tmp_path, [row(2, '["puppies", "coffee tables", "black cat"]', "Assistant: " + LONG)])
    assert found.file == "hall_model_answer_-1.json"
    assert found.result["sentences"] == [
        {
            "image_id": 2,
            "caption": LONG,
            "mscoco_hallucinated_words": [["coffee table", ["coffee table", "dining table"]]],
            "mscoco_gt_words": ["cat", "dog"],
            "mscoco_generated_words": [["puppy", "dog"], ["coffee table", "dining table"], ["cat", "cat"]],
            "hallucination_idxs": [1],
            "words": ["puppy", "coffee table", "cat"],
            "metrics": {"CHAIRs": 1, "CHAIRi": 1 / 3},
        }
    ]


@pytest.mark.parametrize(
    ("answer", "mentions"),
    [
        pytest.param("A dog here", 0, id="three words are not sent to the judge"),
        pytest.param("  A  dog\nhere ", 0, id="blanks are no words"),
        pytest.param("Assistant: a dog here", 0, id="nor is the name of the speaker"),
        pytest.param("A dog is here", 1, id="four words are"),
    ],
)
def test_short_answers_name_nothing(tmp_path: Path, answer: str, mentions: int) -> None:
    assert score(tmp_path, [row(2, ["dog"], answer)]).metrics["coco_sentence_num"] == mentions


def test_a_judge_lists_objects(tmp_path: Path) -> None:
    """It is asked as the official script asks, again where its reply has no list, and not about short answers."""
    (tmp_path / SCRIPT).write_text('prompt_template = """Q: {question} A: {answer}"""')
    answers, truth, out = tmp_path / "answers.jsonl", tmp_path / "truth.tsv", tmp_path / "out"
    rows = [row(2, None, "Assistant: A {question} and a dog"), row(2, None, "A dog"), row(2, None, "A cup is here")]
    answers.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    truth.write_text("2\tdog,cat\n")
    replies = {"dog": iter(['["dog", "cat"]']), "here": iter(["()", 'Here:\n["cup"]'])}
    with judge_that(lambda body: next(replies[body["messages"][0]["content"].split()[-1]])) as server:
        files = [f"--answers={answers}", f"--truth={truth}", f"--judge-prompts={tmp_path}", f"--out={out}"]
        judge = ["--judge=gpt-3.5-turbo-0613", f"--judge-api={server.address}"]
        assert main(["--benchmark=object-halbench", *files, *judge, "--option=phrases=wordnet"]) == 0
    told = {"role": "system", "content": "Q: ? A: A {question} and a dog"}
    assert {"model": "gpt-3.5-turbo-0613", "messages": [told], "temperature": 0.2, "max_tokens": 512} in server.bodies
    assert [one["extract_objs"] for one in json.loads((out / "judged.json").read_text())] == [
        '["dog", "cat"]',
        [],
        'Here:\n["cup"]',
    ]
    assert json.loads((out / "metrics.json").read_text())["metrics"]["CHAIRi"] == 1 / 3


def test_words_need_no_judge(tmp_path: Path) -> None:
    options = chosen(ObjectHalBench.options, {"extractor": "words"})
    with pytest.raises(BadInput, match="extractor=words does without a judge; leave --judge out"):
        ObjectHalBench().judged(tmp_path, tmp_path, options, tmp_path, Judge("http://judge/v1", "", tmp_path))


def test_a_short_answer_needs_no_list(tmp_path: Path) -> None:
    found = score(tmp_path, [{"image_id": 2, "text": "A dog"}])
    assert (found.metrics["CHAIRs"], found.metrics["CHAIRs_refine"]) == (0, None)


def test_length_counts_runs_of_blanks_oddly(tmp_path: Path) -> None:
    # "a", "", "dog\nis", "here": what stands between single blanks of the stripped text.
    assert score(tmp_path, [row(2, [], " a  dog\nis here ")]).metrics["avg_word_len"] == 4


def test_words_without_a_judge(tmp_path: Path) -> None:
    found = score(tmp_path, [row(2, "not read", "A dog, dogs, a pedestrian near a seat")], extractor="words")
    # Each mention counts, and as in the refined table a pedestrian is a person.
    assert (found.metrics["CHAIRi"], found.metrics["coco_sentence_num"]) == (2 / 4, 1)
    assert found.notes[1].startswith("words were counted without a judge")


def test_toilet_and_seat(tmp_path: Path) -> None:
    found = score(tmp_path, [row(1, ["toilet", "seat", "person"])]).result["sentences"][0]  # type: ignore[index]
    assert found["words"] == ["toilet", "seat", "person"]
    assert found["mscoco_generated_words"] == [["toilet", "toilet"], ["person", "person"]]


@pytest.mark.parametrize(
    ("phrase", "expect"),
    [
        pytest.param([("a", False), ("tennis", True), ("player", True)], ["tennis player"], id="a run of nouns is one"),
        pytest.param([("a", False), ("red", False), ("car", True)], ["car"], id="an attribute is no noun"),
        pytest.param([("bowl", True), ("of", False), ("soup", True)], ["bowl", "soup"], id="two runs"),
        pytest.param(
            [("dog", True), ("near", False), ("hot", False), ("dog", True)],
            ["hot dog"],
            id="where there is a pair, pairs are all that counts",
        ),
        pytest.param([("baby", True), ("elephant", True)], ["elephant"], id="a baby elephant"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_objects_of_a_phrase(phrase: list[tuple[str, bool]], expect: list[str]) -> None:
    assert objects(phrase, refined_vocabulary()) == expect


@pytest.mark.parametrize(
    ("phrase", "expect"),
    [
        pytest.param("Wooden tables", ["table"], id="adjective and plural"),
        pytest.param("two glasses of wine", ["glass", "wine"], id="what joins nouns"),
        pytest.param("toy cars", ["toy car"], id="nouns beside each other are one word"),
        pytest.param("model airplane", ["airplane"], id="an adjective to WordNet and no noun: so it only comes near"),
        pytest.param("2 dogs", ["dog"], id="a number"),
        pytest.param("frisbee", ["frisbee"], id="one word"),
        pytest.param("orange", ["orange"], id="an adjective at the end is a noun"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_phrases_by_wordnet(phrase: str, expect: list[str]) -> None:
    assert objects(wordnet_phrase(phrase), refined_vocabulary()) == expect


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(["dog", "cup"], id="a list"),
        pytest.param('["dog", "cup"]', id="the reply is a list"),
        pytest.param('The objects are:\n\n["dog", "cup"]\n', id="its last line is one"),
        pytest.param('Here:\n```json\n["dog",\n "cup"]\n```', id="a block of JSON"),
    ],
)
def test_replies(reply: object) -> None:
    assert listed(Row("row 1", {"extract_objs": reply})) == ["dog", "cup"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({}, "row 1: there is no field 'extract_objs' with what the judge listed", id="none"),
        pytest.param(
            {"extract_objs": "-1\n<no_response>"}, "row 1: the reply in 'extract_objs' has no JSON list", id="-1"
        ),
        pytest.param({"extract_objs": "()"}, "has no JSON list ('()'); ask the judge again", id="empty brackets"),
        pytest.param({"extract_objs": '{"a": 1}'}, "'extract_objs' is {\"a\": 1}; give a list of texts", id="no list"),
        pytest.param({"extract_objs": ["dog", 3]}, "'extract_objs' is [\"dog\", 3]; give a list of texts", id="number"),
    ],
)
def test_bad_replies(values: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput) as error:
        listed(Row("row 1", values))
    assert message in str(error.value)


def test_another_number_of_pictures_is_told(tmp_path: Path) -> None:
    assert score(tmp_path, [row(2, ["dog"])]).notes == (
        "these answers are about 1 pictures, where the benchmark has 300",
        "phrases were read by WordNet, so these numbers only come near those that papers have",
    )


def test_spacy_is_named_with_its_remedy_where_it_is_not_installed() -> None:
    with pytest.raises(BadInput, match=r"python -m spacy download en_core_web_trf.*phrases=wordnet"):
        spacy_reader()
