"""CHAIR: what an answer names, what is in a picture, and the numbers. Published ones: test_published_numbers.py."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.benchmarks.chair import Chair
from feedback_workloads.benchmarks.coco.objects import chair_vocabulary, refined_vocabulary
from feedback_workloads.benchmarks.english.words import noun_lemmas
from feedback_workloads.benchmarks.official import Scores, chosen
from feedback_workloads.contract import BadInput


def named(text: str) -> list[str]:
    (words,) = noun_lemmas([text])
    return list(chair_vocabulary().named(words).classes)


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        # Oddities of the table of synonyms.
        pytest.param("a motor bike", [], id="motor bike: joined, and then a synonym that begins with a blank"),
        pytest.param("a motorbike and a motor cycle", ["motorcycle"] * 2, id="written otherwise it is found"),
        pytest.param("a cheesecake", [], id="cheesecake begins with a blank"),
        pytest.param("an iPhone", [], id="iPhone has a capital, and texts are lower-cased"),
        pytest.param("a bison, an elephant, a chesterfield", ["cow", "elephant", "couch"], id="blanks at line ends"),
        pytest.param("a televison, a solider", ["tv", "person"], id="misspelt on purpose or not"),
        pytest.param("a plant, a glass, a racquet", [], id="only potted plant, wine glass, tennis racket"),
        pytest.param(
            "a potted plant, a wine glass, a tennis racket", ["potted plant", "wine glass", "tennis racket"], id="those"
        ),
        # Words of two.
        pytest.param("a dining table", ["dining table"], id="dining table is no pair; table finds it"),
        pytest.param("a hot dog, hot dogs", ["hot dog", "hot dog"], id="hot dog beats dog"),
        pytest.param("two wine glasses", ["wine glass"], id="wine glasses"),
        pytest.param("home plate by a train track", [], id="home plate and train track hide"),
        pytest.param(
            "a train station, a clock tower, a bus stop, a car park",
            ["train", "clock", "bus", "car"],
            id="other pairs hide nothing",
        ),
        pytest.param("toilet paper", ["toilet"], id="toilet paper names a toilet"),
        pytest.param("a baby bird, an adult dog, a baby cub", ["bird", "dog"], id="a baby animal is no person"),
        pytest.param("a baby girl", ["person", "person"], id="baby girl: two persons"),
        pytest.param("a passenger jet and a passenger train", ["airplane", "train"], id="no passenger"),
        pytest.param("a bow tie", ["tie"], id="bow tie"),
        pytest.param("a stove top oven", ["oven", "oven"], id="three words are never joined"),
        pytest.param("a hot dog dog", ["hot dog", "dog"], id="from left to right"),
        # A toilet's seat.
        pytest.param("a toilet seat", ["toilet"], id="toilet seat"),
        pytest.param("the seat of the toilet, a seat", ["toilet"], id="with a toilet every seat goes"),
        pytest.param("a seat", ["chair"], id="without one it is a chair"),
        # What words mean.
        pytest.param("an orange shirt", ["orange"], id="the colour is the fruit"),
        pytest.param("there is no dog", ["dog"], id="what is denied counts"),
        pytest.param("a pair of skis", ["skis"], id="skis"),
        pytest.param("people, a man, men, women", ["person"] * 3, id="men are no person, since men are a lemma"),
        pytest.param("a 'stop' sign", [], id="quotation marks part a pair"),
        pytest.param("a car—red", [], id="a dash does not part words"),
        pytest.param("Dogs. Dogs? DOG!", ["dog"] * 3, id="each time, in any case"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_what_is_named(text: str, expect: list[str]) -> None:
    assert named(text) == expect


def test_places_are_of_the_words_of_the_text() -> None:
    found = chair_vocabulary().named(["a", "hot", "dog", "and", "a", "cat"])
    assert (found.words, found.places, found.read) == (("hot dog", "cat"), (1, 5), ("a", "hot dog", "and", "a", "cat"))


def test_places_after_a_dropped_seat_are_those_of_the_official_scorer() -> None:
    # The cat is the sixth word; the scorer drops the seat and then counts without it, in a list that still has it.
    found = chair_vocabulary().named(["a", "toilet", ",", "a", "seat", ",", "cat"])
    assert (found.words, found.places) == (("toilet", "cat"), (1, 5))


def test_the_refined_table() -> None:
    refined, chair = refined_vocabulary(), chair_vocabulary()
    added = {"brother": "person", "pedestrian": "person", "coffee table": "dining table", "remote control": "remote"}
    assert {word: name for word, name in refined.class_of.items() if word.strip() not in chair.class_of} == {
        **added, "motor bike": "motorcycle", "cheesecake": "cake"
    }  # fmt: skip
    assert len(refined.class_of) == 407
    assert len(set(refined.class_of.values())) == 80
    pairs = set(refined.joined) - set(chair.joined)
    assert pairs == {"dining table", "coffee table", "remote control"}


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(folder: Path, answers: object, truth: object = "1\tcat,dog\n2\tchair\n3\t\n", **options: str) -> Scores:
    file, table = folder / "answers.jsonl", folder / "truth.tsv"
    file.write_text(answers if isinstance(answers, str) else json.dumps(answers))
    table.write_text(str(truth))
    return Chair().score(file, table, chosen(Chair.options, {"words": "noun", **options}))


def row(picture: object, text: str, **other: object) -> dict[str, Any]:
    return {"image_id": picture, "caption": text, **other}


def test_numbers(tmp_path: Path) -> None:
    found = score(
        tmp_path, [row(1, "A cat, a cat and a bird."), row(2, "Nothing here"), row(3, "A cup"), row(1, "dogs")]
    )
    # Two of four answers hallucinate, counting the one that names nothing; of five mentions bird and cup are wrong;
    # cat, nothing, nothing and dog are covered of 2 + 1 + 0 + 2; words are 9, 2, 2 and 1.
    assert found.metrics == {"CHAIRs": 2 / 4, "CHAIRi": 2 / 5, "Recall": 2 / 5, "Len": pytest.approx(14 / 4 / 100)}
    assert found.result["sentences"][0] == {  # type: ignore[index]
        "image_id": 1,
        "caption": "A cat, a cat and a bird.",
        "mscoco_hallucinated_words": [["bird", "bird"]],
        "mscoco_gt_words": ["cat", "dog"],
        "mscoco_generated_words": ["cat", "cat", "bird"],
        "hallucination_idxs": [7],
        "words": ["a", "cat", ",", "a", "cat", "and", "a", "bird", "."],
        "metrics": {"CHAIRs": 1, "CHAIRi": 1 / 3, "Recall": 0.5, "Len": 0.0},
    }


def test_a_file_that_names_nothing_has_no_rate(tmp_path: Path) -> None:
    assert score(tmp_path, [row(3, "A wall")]).metrics == {"CHAIRs": 0, "CHAIRi": None, "Recall": None, "Len": 0.02}


def test_the_pope_paper_counts_what_single_blanks_part(tmp_path: Path) -> None:
    assert score(tmp_path, [row(1, "A  cat, a\ncat")], length="blanks").metrics["Len"] == 0.04


@pytest.mark.parametrize(
    "picture", [1, "1", "000000000001.jpg", "COCO_val2014_000000000001.jpg", "val2017/000000000001.jpg"]
)
def test_pictures_by_number_or_name(tmp_path: Path, picture: object) -> None:
    assert score(tmp_path, [row(picture, "a cat")]).metrics["Recall"] == 0.5


ROWS = [row(1, "a cat"), row(2, "a cat")]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps(ROWS, indent=2), id="one JSON document, though named .jsonl"),
        pytest.param("".join(f"{json.dumps(one)}\n\n" for one in ROWS), id="lines"),
        pytest.param("".join(json.dumps(one, indent=4) for one in ROWS), id="objects one after the other (POPE)"),
        pytest.param(json.dumps({"overall": {}, "imgToEval": {str(i): one for i, one in enumerate(ROWS)}}), id="2018"),
        pytest.param(json.dumps({"sentences": ROWS, "overall_metrics": {}}), id="what a scorer saved"),
        pytest.param(
            "\ufeff" + json.dumps([{"image_id": 1, "text": "a cat"}, {"image": "2.jpg", "text": "a cat"}]),
            id="other names; a byte order mark",
        ),
    ],
)
def test_forms_of_files(tmp_path: Path, text: str) -> None:
    assert score(tmp_path, text).metrics["CHAIRs"] == 0.5


@pytest.mark.parametrize(
    ("answers", "truth", "message"),
    [
        pytest.param("", "1\t\n", "answers.jsonl: there is no JSON object in it; check", id="empty"),
        pytest.param('{"image_id": 1}\n{"image', "1\t\n", "answers.jsonl, line 2: this is not JSON", id="cut off"),
        pytest.param('[{"image_id": 1, "caption": ""}, 7]', "1\t\n", "row 2: this is 7; give a JSON object", id="7"),
        pytest.param(
            [{"image_id": 1}],
            "1\t\n",
            "row 1: there is no field 'caption' or 'text' (its fields are image_id); name it",
            id="text",
        ),
        pytest.param(
            [row(1, "a"), row(True, "a")], "1\t\n", "row 2: the field 'image_id' is true; give an integer", id="picture"
        ),
        pytest.param([row("x.jpg", "a")], "1\t\n", "the field 'image_id' is \"x.jpg\"; give an integer", id="name"),
        pytest.param([row(1, "a", caption=3)], "1\t\n", "row 1: the field 'caption' is 3; give a text", id="text"),
        pytest.param([row(1, "a")], "1\tcat\nx\n", "truth.tsv, line 2: 'x' is no picture with its classes", id="truth"),
        pytest.param(
            [row(7, "a"), row(9, "a")],
            "1\tcat\n",
            "2 of the 2 pictures that were asked about are not in it, the first is 7",
            id="other pictures",
        ),
    ],
)
def test_bad_files(tmp_path: Path, answers: object, truth: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        score(tmp_path, answers, truth)
    assert message in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_bytes(b'[\n{"caption": "\xff"}]')
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(b"[]")[:-4])
    with pytest.raises(BadInput, match=r"answers.json, line 2: byte 15 is not UTF-8"):
        Chair().score(tmp_path / "answers.json", tmp_path, chosen(Chair.options, {}))
    with pytest.raises(BadInput, match=r"packed.json.gz cannot be read: .*; check the path"):
        Chair().score(tmp_path / "packed.json.gz", tmp_path, chosen(Chair.options, {}))
    with pytest.raises(BadInput, match=r"none.json cannot be read: No such file"):
        Chair().score(tmp_path / "none.json", tmp_path, chosen(Chair.options, {}))


def test_options_are_those_of_the_benchmark() -> None:
    assert chosen(Chair.options, {"words": "noun"}) == {"words": "noun", "length": "tokens"}
    with pytest.raises(BadInput, match="no option 'word' of this benchmark; its options: words, length"):
        chosen(Chair.options, {"word": "noun"})
    with pytest.raises(BadInput, match="is 'verb'; give one of pos, singularize, noun"):
        chosen(Chair.options, {"words": "verb"})


# ── COCO's own annotations ───────────────────────────────────────────────────────────────────────────────────────────


def annotations(folder: Path, instances: Sequence[tuple[int, int]], captions: Sequence[tuple[int, str]]) -> Path:
    """COCO's two files of a split, with what scorers read of them."""
    pictures = [{"id": picture, "file_name": f"COCO_val2014_{picture:012}.jpg"} for picture in (1, 2)]
    categories = [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 90, "name": "toothbrush"}]
    boxes = [
        {"id": number, "image_id": picture, "category_id": category, "iscrowd": number % 2}
        for number, (picture, category) in enumerate(instances)
    ]
    texts = [{"id": number, "image_id": picture, "caption": text} for number, (picture, text) in enumerate(captions)]
    folder.mkdir()
    instance_file = {"info": {}, "images": pictures, "annotations": boxes, "categories": categories}
    (folder / "instances_val2014.json").write_text(json.dumps(instance_file))
    (folder / "captions_val2014.json").write_text(json.dumps({"images": pictures, "annotations": texts}))
    return folder


def test_truth_is_instances_and_captions(tmp_path: Path) -> None:
    # The cat is annotated alone, once as a crowd; the dog is in captions alone; picture 2 has no instance.
    truth = annotations(tmp_path / "coco", [(1, 17), (1, 17)], [(1, "Two dogs.\n"), (1, "A bed"), (2, "A cup ")])
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([row(1, "a cat"), row(2, "a cat")]))
    sentences = Chair().score(file, truth, chosen(Chair.options, {"words": "noun"})).result["sentences"]
    assert [one["mscoco_gt_words"] for one in sentences] == [["bed", "cat", "dog"], ["cup"]]  # type: ignore[attr-defined]


def test_captions_are_read_by_the_rule_of_the_answers(tmp_path: Path) -> None:
    truth = annotations(tmp_path / "coco", [], [(1, "cars"), (2, "")])
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([row(1, "cars")]))

    def verbs(texts: Sequence[Sequence[str]]) -> list[str]:
        return ["v" * len(words) for words in texts]

    found = Chair(tagger=verbs).score(file, truth, chosen(Chair.options, {"words": "pos"}))
    assert found.metrics["Recall"] is None, "as a verb, cars are no car, neither there nor here"
    found = Chair(tagger=verbs).score(file, truth, chosen(Chair.options, {"words": "singularize"}))
    assert found.metrics["Recall"] == 1


def test_bad_annotations(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([row(1, "a cat")]))
    folder = annotations(tmp_path / "coco", [], [(1, "a cat")])
    (folder / "captions_val2014.json").unlink()
    with pytest.raises(BadInput, match=r"coco: there is no captions_\*.json in it; give a folder with COCO's"):
        Chair().score(file, folder, chosen(Chair.options, {"words": "noun"}))
    (folder / "instances_val2014.json").write_text('{"images": [], "categories": [{"id": 1, "name": "lamp"}]}')
    with pytest.raises(BadInput, match=r"line 1, categories 1: 'lamp' is none of COCO's 80 categories"):
        Chair().score(file, folder, chosen(Chair.options, {"words": "noun"}))
    (folder / "instances_val2014.json").write_text(
        '{"images": [], "categories": [], "annotations": [{"image_id": 1, "category_id": 5}]}'
    )
    with pytest.raises(BadInput, match=r"line 1, annotations 1: there is no category 5 in that file"):
        Chair().score(file, folder, chosen(Chair.options, {"words": "noun"}))
