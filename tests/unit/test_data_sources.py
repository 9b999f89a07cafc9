"""Public data sets in small, each in the form in which it is published, with its oddities; all values are made up."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feedback_workloads.benchmarks import benchmark
from feedback_workloads.contract import BadInput, BenchmarkType, Source
from feedback_workloads.data.convert import convert
from feedback_workloads.data.sources.benchmarks import split_of
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.schemas import IMAGE
from feedback_workloads.storage.artifacts import ArtifactStore


def jpeg(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(data, "JPEG")
    return data.getvalue()


def place(folder: Path, files: Mapping[str, object]) -> None:
    """Write files: bytes and texts as they are, all else as JSON."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case bytes():
                file.write_bytes(content)
            case str():
                file.write_text(content)
            case _:
                file.write_text(json.dumps(content))


class Made:
    """What came of a conversion: rows without their pictures, pictures by id, rejected rows, counts."""

    def __init__(self, folder: Path, counts: Mapping[str, int]) -> None:
        table = pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("part-*.parquet")))
        self.rows = {row.pop("id"): row for row in table.to_pylist()}
        self.images = {id: row.pop("image") for id, row in self.rows.items()}
        self.counts = counts
        rejects = folder / "_rejected.jsonl"
        lines = rejects.read_text().splitlines() if rejects.exists() else []
        self.rejected = [(row["id"], row["reason"]) for row in map(json.loads, lines)]

    def questions(self) -> dict[str, tuple[str, str | None]]:
        return {id: (row["question"], row["reference"]) for id, row in self.rows.items()}


def made(tmp_path: Path, name: str, given: Sequence[str] = (), called: str | None = None, **options: str) -> Made:
    store, to = ArtifactStore(tmp_path / "cache"), tmp_path / "out"
    counts = convert(store, name, given=given or [str(tmp_path / "in")], to=str(to), options=options, called=called)
    return Made(to, counts)


# ── MSCOCO ───────────────────────────────────────────────────────────────────────────────────────────────────────────

COCO_IMAGE = {"license": 4, "coco_url": "http://c/1", "height": 6, "width": 8, "date_captured": "2013-11-14 17:02:52"}


def coco(split: str) -> dict[str, object]:
    names = {9: f"COCO_{split}_000000000009.jpg", 25: f"COCO_{split}_000000000025.jpg", 30: "gone.jpg"}
    images = [{**COCO_IMAGE, "id": id, "file_name": name, "flickr_url": "http://f/1"} for id, name in names.items()]
    licences = [{"url": "http://l", "id": 4, "name": "Attribution License"}]
    captions = [
        {"image_id": 9, "id": 1, "caption": "A dog\n on grass. "},
        {"image_id": 25, "id": 2, "caption": "Nothing much"},
        {"image_id": 9, "id": 3, "caption": "An animal."},
    ]
    box = {"area": 1.5, "bbox": [0.0, 0.0, 1.0, 1.5]}
    annotations = [
        {**box, "id": 1, "image_id": 9, "category_id": 18, "iscrowd": 0, "segmentation": [[0.0, 0.0, 1.0]]},
        {
            **box,
            "id": 2,
            "image_id": 9,
            "category_id": 90,
            "iscrowd": 1,
            "segmentation": {"counts": [1], "size": [6, 8]},
        },
        {**box, "id": 3, "image_id": 9, "category_id": 18, "iscrowd": 0, "segmentation": [[0.0, 0.0, 1.0]]},
    ]
    categories = [{"supercategory": "animal", "id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}]
    common = {"info": {"year": 2014}, "images": images, "licenses": licences}
    return {
        f"annotations/captions_{split}.json": {**common, "annotations": captions},
        f"annotations/instances_{split}.json": {**common, "annotations": annotations, "categories": categories},
    }


def coco_archives(folder: Path) -> None:
    """As they are downloaded: a zip of annotations and one of pictures."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "w") as archive:
        for name, content in coco("val2014").items():
            archive.writestr(name, json.dumps(content))
    with zipfile.ZipFile(folder / "val2014.zip", "w") as archive:
        archive.writestr("val2014/", "")
        for id in (9, 25):
            archive.writestr(f"val2014/COCO_val2014_{id:012}.jpg", jpeg(id))


def test_coco_from_its_archives(tmp_path: Path) -> None:
    coco_archives(tmp_path / "in")
    found = made(tmp_path, "coco")
    assert {id: (row["reference"], row["truth"]) for id, row in found.rows.items()} == {
        "coco-9": ("A dog on grass.\nAn animal.", '["dog", "toothbrush"]'),
        "coco-25": ("Nothing much", "[]"),
    }
    assert found.images["coco-9"] == {"bytes": jpeg(9), "path": "COCO_val2014_000000000009.jpg"}
    assert {row["attribution"] for row in found.rows.values()} == {"http://f/1, Attribution License"}
    assert found.rejected == [("coco-30", "missing-picture")]
    assert found.counts == {"rows": 2, "rejected": 1, "rejected_missing-picture": 1}


def test_what_is_made_is_read_as_instructions(tmp_path: Path) -> None:
    coco_archives(tmp_path / "in")
    made(tmp_path, "coco")
    store = ArtifactStore(tmp_path / "cache")
    read = list(store.instructions(Source(uri=str(tmp_path / "out"))))
    assert [(type(row), row.id) for row in read] == [(Instruction, "coco-9"), (Instruction, "coco-25")]
    found = store.find(str(tmp_path / "out"))
    assert found is not None
    digest = Source(uri=str(tmp_path / "out"), sha256=found[1].sha256)
    assert len(list(store.instructions(digest))) == 2


def test_without_instances_there_is_no_truth(tmp_path: Path) -> None:
    files = {name: content for name, content in coco("val2014").items() if "captions" in name}
    place(tmp_path / "in", {**files, "COCO_val2014_000000000009.jpg": jpeg(9)})
    found = made(tmp_path, "coco")
    assert [row["truth"] for row in found.rows.values()] == [None]


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def talk(image: object, *turns: str, **more: object) -> dict[str, object]:
    names = ("human", "gpt") * len(turns)
    said = [{"from": name, "value": turn} for name, turn in zip(names, turns, strict=False)]
    return {"id": "000000000009", **({} if image is None else {"image": image}), "conversations": said, **more}


CONVERSATIONS = [
    talk("coco/train2017/000000000009.jpg", "What is it?\n<image>", "A dog.", "Which colour?", "Red. "),
    talk("sam/images/sa_1.jpg", "<image>\nDescribe.", "A cat."),
    talk(None, "Just text?", "Yes."),
    talk("sam/images/sa_2.jpg", "<image>", "A cat."),
    talk(["sam/images/sa_1.jpg", "sam/images/sa_2.jpg"], "<image><image>\nCompare.", "No."),
    talk("other/sa_1.jpg", "Which?", "A cat."),
]
PICTURES = {"coco/train2017/000000000009.jpg": jpeg(9), "sam/images/sa_1.jpg": jpeg(1), "sam/images/sa_2.jpg": jpeg(2)}


def test_sharegpt4v(tmp_path: Path) -> None:
    place(tmp_path / "in", {"sharegpt4v_instruct_gpt4-vision_cap100k.json": CONVERSATIONS, **PICTURES})
    found = made(tmp_path, "sharegpt4v")
    assert found.questions() == {"sharegpt4v-1": ("What is it?", "A dog."), "sharegpt4v-2": ("Describe.", "A cat.")}
    assert found.images["sharegpt4v-2"] == {"bytes": jpeg(1), "path": "sam/images/sa_1.jpg"}
    assert [reason for _, reason in found.rejected] == [
        "text-only", "empty-question", "several-pictures", "missing-picture",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["list", "lines", "mark", "gz"])
def test_llava_in_every_physical_form_and_all_turns(tmp_path: Path, form: str) -> None:
    whole, lines = json.dumps(CONVERSATIONS[:2]), "".join(json.dumps(row) + "\n" for row in CONVERSATIONS[:2])
    content: dict[str, dict[str, object]] = {
        "list": {"mix.json": whole},
        "lines": {"mix.json": lines + "{broken\n"},
        "mark": {"mix.json": b"\xef\xbb\xbf" + whole.encode()},
        "gz": {"mix.jsonl.gz": gzip.compress(lines.encode())},
    }
    place(tmp_path / "in", {**content[form], **PICTURES})
    named = {"file": "mix.jsonl.gz"} if form == "gz" else {}
    found = made(tmp_path, "llava", turns="all", **named)
    assert found.questions() == {
        "llava-1": ("What is it?", "A dog."),
        "llava-1-2": ("Which colour?", "Red."),
        "llava-2": ("Describe.", "A cat."),
    }
    assert [reason for _, reason in found.rejected] == (["not-json"] if form == "lines" else [])


def test_a_broken_document_is_bad_input(tmp_path: Path) -> None:
    place(tmp_path / "in", {"mix.json": '[{"id": 1}, {', **PICTURES})
    with pytest.raises(BadInput, match=r"mix\.json is not JSON"):
        made(tmp_path, "llava")


def test_one_of_several_json_files_has_to_be_named(tmp_path: Path) -> None:
    place(tmp_path / "in", {"a.json": CONVERSATIONS[:1], "b.json": CONVERSATIONS, **PICTURES})
    with pytest.raises(BadInput, match=r"several JSON files, .*a\.json and b\.json"):
        made(tmp_path, "llava")
    assert len(made(tmp_path, "llava", file="a.json").rows) == 1


# ── MovieNet ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_movienet(tmp_path: Path) -> None:
    scenes = [
        {"id": "s0", "shot": [0, 3], "frame": [0, 9], "place_tag": "bar", "action_tag": ["drink", "talk"]},
        {"id": "s1", "shot": [4, 5], "frame": None, "place_tag": None, "action_tag": "['run']"},
        {"id": "s2", "shot": None},
    ]
    place(
        tmp_path / "in",
        {
            "annotation/tt0000001.json": {"imdb_id": "tt0000001", "cast": None, "scene": scenes, "story": None},
            "annotation/tt0000002.json": {"imdb_id": "tt0000002", "cast": None, "scene": None, "story": None},
            "240p/tt0000001/shot_0001_img_1.jpg": jpeg(1),
            "240p/tt0000001/shot_0004_img_0.jpg": jpeg(2),
            "240p/tt0000002/shot_0004_img_1.jpg": jpeg(3),
        },
    )
    found = made(tmp_path, "movienet")
    assert {id: row["reference"] for id, row in found.rows.items()} == {"movienet-tt0000001-1": "bar, drink, talk"}
    assert found.images["movienet-tt0000001-1"]["bytes"] == jpeg(1)
    assert found.rejected == [
        ("movienet-tt0000001-2", "missing-picture"),  # not the frame of the same name in another film
        ("annotation/tt0000001.json:3", "wrong-type"),
        ("annotation/tt0000002.json", "no-scenes"),
    ]


# ── Google Landmarks v2 ──────────────────────────────────────────────────────────────────────────────────────────────

A, B, C = "00cba0067c078490", "00f928e383e1d121", "0a0000000000000f"


def landmarks(folder: Path, packed: str) -> None:
    place(
        folder,
        {
            "train.csv": f"id,url,landmark_id\n{A},http://x/1.jpg,1\n{B},http://x/2.jpg,7\n{C},http://x/3.jpg,7\n",
            "train_label_to_category.csv": "landmark_id,category\n"
            '1,http://commons.wikimedia.org/wiki/Category:Caf%C3%A9_de_Flore\n7,"http://c/wiki/Category:A,_B"\n',
            "train_attribution.csv": f'id,url,author,license,title\n{A},http://x,"Doe, J.",http://cc/by/4.0/,Caf\n',
        },
    )
    with tarfile.open(folder / f"images_000.{packed}", "w:gz" if packed.endswith("gz") else "w") as archive:
        for name in (A, B):
            data = jpeg(int(name[3], 16))
            member = tarfile.TarInfo(f"./{name[0]}/{name[1]}/{name[2]}/{name}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("packed", ["tar", "tar.gz", "tgz"])
def test_landmarks_from_their_tars(tmp_path: Path, packed: str) -> None:
    landmarks(tmp_path / "in", packed)
    found = made(tmp_path, "landmarks")
    assert {id: (row["reference"], row["attribution"]) for id, row in found.rows.items()} == {
        f"landmarks-{A}": ("Café de Flore", "Caf, Doe, J., http://cc/by/4.0/"),
        f"landmarks-{B}": ("A, B", None),
    }
    assert found.images[f"landmarks-{A}"]["bytes"] == jpeg(int(A[3], 16))
    assert found.rejected == [(f"landmarks-{C}", "missing-picture")]


def test_the_clean_list_of_landmarks_goes_first(tmp_path: Path) -> None:
    landmarks(tmp_path / "in", "tar")
    place(tmp_path / "in", {"train_clean.csv": f"landmark_id,images\n1,{A} {A}\n7,../../etc\n"})
    found = made(tmp_path, "landmarks")
    assert list(found.rows) == [f"landmarks-{A}"]
    assert [reason for _, reason in found.rejected] == ["duplicate-id", "wrong-type"]


# ── VQA v2, OK-VQA, TextVQA ──────────────────────────────────────────────────────────────────────────────────────────


def answers(*said: str, **more: str) -> list[dict[str, object]]:
    return [{"answer": it, "answer_confidence": "yes", "answer_id": n, **more} for n, it in enumerate(said, 1)]


def vqa(subset: str, *ids: int) -> dict[str, object]:
    questions = [{"image_id": id, "question": f"What is {id}? ", "question_id": id * 1000} for id in ids]
    return {"info": {}, "task_type": "Open-Ended", "data_subtype": subset, "license": {}, "questions": questions}


def test_vqa_v2(tmp_path: Path) -> None:
    annotations = [
        {
            "question_type": "what is", "multiple_choice_answer": "dog", "image_id": 9, "question_id": 9000,
            "answer_type": "other", "answers": answers("cat", "dog", "dog", ""),
        }
    ]  # fmt: skip
    place(
        tmp_path / "in",
        {
            "v2_OpenEnded_mscoco_val2014_questions.json": vqa("val2014", 9, 25, 30),
            "v2_mscoco_val2014_annotations.json": {"info": {}, "annotations": annotations},
            "v2_OpenEnded_mscoco_test2015_questions.json": vqa("test2015", 1),
            "val2014/COCO_val2014_000000000009.jpg": jpeg(9),
            "val2017/000000000025.jpg": jpeg(25),
            "test2015/COCO_test2015_000000000001.jpg": jpeg(1),
        },
    )
    found = made(tmp_path, "vqa-v2")
    assert found.questions() == {
        "vqa-v2-1000": ("What is 1?", None),
        "vqa-v2-9000": ("What is 9?", "dog"),
        "vqa-v2-25000": ("What is 25?", None),
    }
    assert found.images["vqa-v2-25000"]["bytes"] == jpeg(25), "the pictures of 2017 are those of 2014"
    assert found.rejected == [("vqa-v2-30000", "missing-picture")]


def test_ok_vqa_has_raw_answers(tmp_path: Path) -> None:
    given = answers("race", "race", "run", raw_answer="racing")
    annotations = {"question_types": {"one": "Vehicles"}, "annotations": [{"question_id": 9000, "answers": given}]}
    place(
        tmp_path / "in",
        {
            "OpenEnded_mscoco_val2014_questions.json": vqa("val2014", 9),
            "mscoco_val2014_annotations.json": annotations,
            "COCO_val2014_000000000009.jpg": jpeg(9),
            "v2_mscoco_val2014_annotations.json": {"annotations": [{"question_id": 9000, "answers": answers("no")}]},
        },
    )
    assert made(tmp_path, "ok-vqa").questions() == {"ok-vqa-9000": ("What is 9?", "racing")}


def test_textvqa(tmp_path: Path) -> None:
    row = {"question": "what brand?", "image_id": "003a8ae2ef43b901", "question_id": 34602, "set_name": "val"}
    rows = [
        {**row, "answers": ["acme", "nokia", "nokia"], "image_width": 8, "flickr_300k_url": "http://f"},
        {**row, "question_id": 34603, "image_id": "0000000000000000"},
        {**row, "question_id": 34604},
    ]
    place(
        tmp_path / "in",
        {
            "TextVQA_0.5.1_val.json": {"dataset_type": "val", "dataset_name": "textvqa", "data": rows},
            "TextVQA_Rosetta_OCR_v0.2_val.json": {"data": [{"image_id": "003a8ae2ef43b901", "ocr_tokens": ["NOKIA"]}]},
            "train_images/003a8ae2ef43b901.jpg": jpeg(3),
        },
    )
    found = made(tmp_path, "textvqa")
    assert found.questions() == {"textvqa-34602": ("what brand?", "nokia"), "textvqa-34604": ("what brand?", None)}
    assert found.rejected == [("textvqa-34603", "missing-picture")]


# ── RLHF-V, RLAIF-V ──────────────────────────────────────────────────────────────────────────────────────────────────

SAID = {"question": "What?", "chosen": "A dog. ", "rejected": "A cat."}
LOGPS = [-3.5, -1.75, [-1.0, -2.5], -4.0, -2.0, [-1.5, -2.5]]
SPLIT = json.dumps({"model": "Muffin", "type": "detailed description"})


def rlhf_v(**said: object) -> dict[str, object]:
    return {
        "ds_name": "RLHF-V",
        "image": {"bytes": jpeg(1), "path": "1.jpg"},
        "text": json.dumps({**SAID, **said}),
        "origin_dataset": "VQAv2",
        "origin_split": SPLIT,
        "idx": 0,
        "image_path": "RLHF-V/1.jpg",
    }


def write(folder: Path, rows: list[dict[str, Any]], name: str = "part.parquet") -> None:
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows)
    pq.write_table(
        table.set_column(table.schema.get_field_index("image"), "image", table["image"].cast(IMAGE)), folder / name
    )


def test_rlhf_v(tmp_path: Path) -> None:
    rows = [
        rlhf_v(),
        {**rlhf_v(logps=LOGPS), "idx": 1},
        {**rlhf_v(chosen="A cat."), "idx": 2},
        {**rlhf_v(), "idx": 3, "text": "{"},
        {**rlhf_v(logps=[1, 2]), "idx": 4},
        rlhf_v(),
    ]
    write(tmp_path / "in", rows)
    found = made(tmp_path, "rlhf-v")
    assert {id: [row[name] for name in ("question", "chosen", "rejected")] for id, row in found.rows.items()} == {
        "rlhf-v-0": ["What?", "A dog. ", "A cat."],
        "rlhf-v-1": ["What?", "A dog. ", "A cat."],
    }
    assert [row["logps"] and json.loads(row["logps"]) for row in found.rows.values()] == [None, LOGPS]
    assert [reason for _, reason in found.rejected] == ["no-difference", "not-json", "wrong-logps", "duplicate-id"]
    assert json.loads(found.rows["rlhf-v-0"]["origin"]) == {
        "ds_name": "RLHF-V", "origin_dataset": "VQAv2", "origin_split": SPLIT, "image_path": "RLHF-V/1.jpg", "idx": 0,
    }  # fmt: skip


def test_rlhf_v_of_the_first_release(tmp_path: Path) -> None:
    def packed(value: object) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    picture = base64.b64encode(jpeg(1)).decode()
    said = packed(list(SAID.values()))
    lines = [
        ["RLHF-V", picture, said, "VQAv2", packed({"model": "Muffin"}), "0", "1.jpg"],
        ["RLHF-V", picture, "!", "VQAv2", packed({}), "1", "1.jpg"],
        ["RLHF-V", picture],
    ]
    place(tmp_path / "in", {"RLHF-V-3.tsv": "".join("\t".join(line) + "\n" for line in lines), "RLHF-V-3.lineidx": "0"})
    found = made(tmp_path, "rlhf-v")
    assert [(id, row["chosen"]) for id, row in found.rows.items()] == [("rlhf-v-0", "A dog. ")]
    assert found.images["rlhf-v-0"]["bytes"] == jpeg(1)
    assert [reason for _, reason in found.rejected] == ["not-base64", "wrong-fields"]


RLAIF_V = {
    "ds_name": "RLAIF-V",
    "image": {"bytes": jpeg(1), "path": None},
    **SAID,
    "origin_dataset": "OK-VQA",
    "origin_split": '{"Answer Model": "LLaVA", "Type": "question answering"}',
    "idx": "8713",
    "image_path": "RLAIF-V-Dataset/1.jpg",
}
"""A row of RLAIF-V as it is published, without log-probabilities."""


@pytest.mark.parametrize(
    ("logps", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(json.dumps(LOGPS), LOGPS, id="a list"),
        pytest.param(json.dumps({"logps": LOGPS}), {"logps": LOGPS}, id="below their name"),
    ],
)
def test_rlaif_v(tmp_path: Path, logps: str | None, expected: object) -> None:
    row = {**RLAIF_V, **({"logps": logps} if logps else {})}
    write(
        tmp_path / "in",
        [row, {**row, "idx": "x", "image": {"bytes": b"no", "path": None}}],
        "RLAIF-V-Dataset_000.parquet",
    )
    found = made(tmp_path, "rlaif-v")
    assert list(found.rows) == ["rlaif-v-8713"]
    said = found.rows["rlaif-v-8713"]
    assert said["logps"] == (json.dumps(expected) if expected else None)
    assert json.loads(said["origin"])["idx"] == "8713"
    assert found.rejected == [("rlaif-v-x", "undecodable-picture")]


# ── any table, and what is wrong ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_any_table_by_its_columns(tmp_path: Path, form: str) -> None:
    rows = [
        {"key": 7, "pic": "a.jpg", "prompt": "What,\nthen?", "answer": "A dog"},
        {"key": 8, "pic": "b.jpg", "prompt": "Who?", "answer": None},
        {"key": 9, "pic": "a.jpg", "prompt": "", "answer": None},
    ]
    table = pa.Table.from_pylist(rows)
    place(tmp_path / "in", {"images/a.jpg": jpeg(1)})
    match form:
        case "parquet":
            pq.write_table(table, tmp_path / "in/t.parquet")
        case "json":
            place(tmp_path / "in", {"t.json": rows})
        case "jsonl":
            place(tmp_path / "in", {"t.jsonl": "\n".join(map(json.dumps, rows))})
        case _:
            table.to_pandas().to_csv(tmp_path / f"in/t.{form}", sep="\t" if form == "tsv" else ",", index=False)
    columns = {"id": "key", "image": "pic", "question": "prompt", "reference": "answer"}
    found = made(tmp_path, "table", called="mine", **columns)
    assert found.questions() == {"mine-7": ("What,\nthen?", "A dog")}
    assert [reason for _, reason in found.rejected] == ["missing-picture", "empty-question"]


def test_a_table_of_pairs(tmp_path: Path) -> None:
    row = {"image": {"bytes": jpeg(1), "path": None}, "question": "What?", "win": "A dog", "lose": "A cat"}
    write(tmp_path / "in", [row])
    found = made(tmp_path, "pairs-table", chosen="win", rejected="lose")
    assert [(id, row["chosen"], row["rejected"]) for id, row in found.rows.items()] == [
        ("pairs-table-1", "A dog", "A cat")
    ]


@pytest.mark.parametrize(
    ("name", "files", "options", "message"),
    [
        pytest.param("imagenet", {}, {}, "no source 'imagenet'; give one of coco, ", id="source"),
        pytest.param("coco", {"a.jpg": b"x"}, {}, r"no file of captions \(captions_\*.json\)", id="file"),
        pytest.param(
            "coco", {}, {"turns": "all"}, "no option 'turns' of the source coco; its options: none", id="option"
        ),
        pytest.param("table", {"t.csv": "a,b\n1,2\n"}, {}, "t.csv:1: there is no column 'image'", id="column"),
        pytest.param("coco", {"a.zip": b"PK"}, {}, "the archive a.zip cannot be read", id="archive"),
        pytest.param(
            "llava", {"a.json": [{}]}, {}, "all 1 rows were left out, most as text-only; it needs", id="empty"
        ),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, name: str, files: dict[str, object], options: dict[str, str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    place(tmp_path / "in", files)
    with pytest.raises(BadInput, match=message):
        made(tmp_path, name, **options)


def test_nothing_is_written_where_something_is_already(tmp_path: Path) -> None:
    coco_archives(tmp_path / "in")
    place(tmp_path / "out", {"old.parquet": b"x"})
    with pytest.raises(BadInput, match=r"out has files already, old.parquet among them"):
        made(tmp_path, "coco")


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    coco_archives(tmp_path / "in")
    made(tmp_path, "coco")
    first = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    made(tmp_path, "coco")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == first


def test_the_card_says_what_there_is(tmp_path: Path) -> None:
    coco_archives(tmp_path / "in")
    made(tmp_path, "coco")
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "| [MSCOCO](https://cocodataset.org/#download) (`coco`) | 2 | annotations CC BY 4.0;" in card
    assert "| missing-picture | 1 |" in card


# ── benchmarks ───────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = [f"COCO_val2014_{number:012}.jpg" for number in (1, 2, 3)]


def judged(found: Made, kind: BenchmarkType) -> None:
    """The stage evaluation can read each truth."""
    for row in found.rows.values():
        benchmark(kind, "noun").judge("", row["truth"])


def test_pope(tmp_path: Path) -> None:
    """As published: a line a question; the pictures of two samplings are parted alike."""
    question = {"text": "Is there a dog in the image?", "label": "no"}
    for sampling in ("random", "popular"):
        rows = [{"question_id": 1 + n, "image": name, **question} for n, name in enumerate(NAMES * 2)]
        rows += [{"question_id": 7, "image": NAMES[0], "text": "Is there a cat?", "label": "maybe"}]
        rows += [{"question_id": 8, "image": "gone.jpg", **question}]
        place(tmp_path / "in", {f"coco_pope_{sampling}.json": "".join(f"{json.dumps(row)}\n" for row in rows)})
    place(tmp_path / "in", {f"val2014/{name}": jpeg(n) for n, name in enumerate(NAMES)})
    found = made(tmp_path, "pope", append="One word.")
    assert found.counts["rows"] == 12
    assert found.rejected == [
        ("coco_pope_popular.json:7", "bad-truth"), ("pope-popular-8", "missing-picture"),
        ("coco_pope_random.json:7", "bad-truth"), ("pope-random-8", "missing-picture"),
    ]  # fmt: skip
    row = found.rows["pope-random-1"]
    assert (row["question"], row["truth"]) == ("Is there a dog in the image?\nOne word.", "no")
    by_picture = {found.images[id]["path"]: set[str]() for id in found.rows}
    for id, row in found.rows.items():
        by_picture[found.images[id]["path"]].add(row["split"])
    assert all(len(splits) == 1 for splits in by_picture.values())
    judged(found, "pope")


def test_pictures_are_parted_by_share_and_seed() -> None:
    pictures = [f"{number}.jpg" for number in range(2000)]
    splits = [split_of(one, {"selection": "0.25"}) for one in pictures]
    assert splits.count("selection") == pytest.approx(500, abs=60)
    assert splits != [split_of(one, {"selection": "0.25", "seed": "1"}) for one in pictures]
    assert {split_of(one, {"selection": share}) for one in pictures for share in ("0", "0.0")} == {"report"}
    assert {split_of(one, {"selection": "1"}) for one in pictures} == {"selection"}


def test_amber(tmp_path: Path) -> None:
    annotations = [
        {"id": 1, "type": "generative", "truth": ["sky", "grass"], "hallu": ["dog"]},
        {"id": 1005, "type": "discriminative-hallucination", "truth": "no"},
    ]
    queries = [
        {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
        {"id": 1005, "image": "AMBER_1.jpg", "query": "Is there a dog in this image?"},
        {"id": 1006, "image": "AMBER_1.jpg", "query": "Is there a cat in this image?"},
    ]
    place(tmp_path / "in", {"data/annotations.json": annotations, "data/query/query_all.json": queries,
                            "image/AMBER_1.jpg": jpeg(1)})  # fmt: skip
    found = made(tmp_path, "amber", append="Yes or No?")
    assert {id: row["question"] for id, row in found.rows.items()} == {
        "amber-1": "Describe this image.", "amber-1005": "Is there a dog in this image?\nYes or No?"
    }  # fmt: skip
    assert json.loads(found.rows["amber-1"]["truth"]) == {
        name: annotations[0][name] for name in ("type", "truth", "hallu")
    }
    assert found.rejected == [("data/query/query_all.json:3", "missing-truth")]
    assert made(tmp_path / "again", "amber", [str(tmp_path / "in")], part="generative").rows.keys() == {"amber-1"}


def test_mmstar(tmp_path: Path) -> None:
    rows = [
        {"index": n, "question": "Which?\nOptions: A: 1, B: 2", "image": jpeg(n), "answer": "B", "category": "math",
         "l2_category": "geometry", "meta_info": {"source": "x"}} for n in range(3)
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in/mmstar.parquet")
    found = made(tmp_path, "mmstar", append="The letter alone.")
    row = found.rows["mmstar-2"]
    assert (row["question"], row["truth"]) == ("Which?\nOptions: A: 1, B: 2\nThe letter alone.", "B")
    assert found.images["mmstar-2"]["bytes"] == jpeg(2)
    judged(found, "mmstar")


@pytest.mark.parametrize("table", [True, False])
def test_chair(tmp_path: Path, table: bool) -> None:
    """Of a table of classes, or of COCO's annotations, whose captions name what nobody drew a box about."""
    coco_archives(tmp_path / "in")
    if table:
        place(tmp_path / "in", {"coco2014_objects.tsv": "9\tdog,toothbrush\n25\t\n30\tcat\n"})
    found = made(tmp_path, "chair", words="noun", question="What is there?")
    assert {id: (row["question"], row["truth"]) for id, row in found.rows.items()} == {
        "chair-9": ("What is there?", '["dog", "toothbrush"]'), "chair-25": ("What is there?", "[]")
    }  # fmt: skip
    judged(found, "chair")
    one = made(tmp_path / "again", "chair", [str(tmp_path / "in")], pictures="1")
    assert len(one.rows) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pope", {"selection": "2"}, "the option selection is '2'; give a share from 0 to 1"),
        ("pope", {"sampling": "rare"}, "the option sampling is 'rare'; give one of all, random"),
        ("chair", {"pictures": "no"}, "the option pictures is 'no'; give a number of them"),
        ("chair", {"words": "all"}, "the option words is 'all'; give one of noun, pos, singularize"),
        ("amber", {}, "there is no truth of AMBER"),
    ],
)
def test_a_benchmark_that_cannot_be_made(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    coco_archives(tmp_path / "in")
    place(tmp_path / "in", {"coco_pope_random.json": [
        {"question_id": 1, "image": "COCO_val2014_000000000009.jpg", "text": "Is there a dog?", "label": "yes"}
    ]})  # fmt: skip
    with pytest.raises(BadInput, match=message):
        made(tmp_path, name, **options)
