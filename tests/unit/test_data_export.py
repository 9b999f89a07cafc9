"""Pairs in the formats of other projects, read back by what those read with."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_workloads.contract import BadInput
from feedback_workloads.data import export as module
from feedback_workloads.data.convert import convert
from feedback_workloads.data.export import export
from feedback_workloads.rows.schemas import IMAGE, PAIRS, PAIRS_OF_CONVERSATIONS
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.unit.test_data_sources import LOGPS, RLAIF_V, SAID, jpeg

PUBLISHED = [RLAIF_V, {**RLAIF_V, "idx": "8714", "chosen": "Ein Hund…\n", "image": {"bytes": jpeg(2), "path": None}}]
SCORED = [{**row, "logps": json.dumps(LOGPS)} for row in PUBLISHED]


def folder_of(tmp_path: Path, rows: list[dict[str, object]]) -> str:
    """RLAIF-V's rows as they are published."""
    folder = tmp_path / "published"
    folder.mkdir()
    kinds = pa.schema([(name, IMAGE if name == "image" else pa.string()) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, kinds), folder / "RLAIF-V-Dataset_000.parquet")
    return str(folder)


def converted(tmp_path: Path, rows: list[dict[str, object]] = PUBLISHED) -> str:
    given, to = folder_of(tmp_path, rows), str(tmp_path / "pairs")
    convert(ArtifactStore(tmp_path / "cache"), "rlaif-v", given=[given], to=to, options={}, called=None)
    return to


def exported(tmp_path: Path, given: str, form: str, to: str = "out") -> Path:
    export(ArtifactStore(tmp_path / "cache"), given, str(tmp_path / to), form)
    return tmp_path / to


ANSWERED: dict[str, object] = {
    **{f"{side}_token_ids": [1] for side in ("chosen", "rejected")},
    **{f"{side}_logps": [-1.0] for side in ("chosen", "rejected")},
    **{f"{side}_candidate": n for n, side in enumerate(("chosen", "rejected"))},
    **{f"{side}_score": -n for n, side in enumerate(("chosen", "rejected"))},
    **{f"{side}_claims": ["x"] for side in ("chosen", "rejected")},
    **{f"{side}_accepted": [True] for side in ("chosen", "rejected")},
}


def of_pairing(tmp_path: Path) -> str:
    """What the stage leaves, in a shard's folder."""
    row = {"id": "coco-9", "image": {"bytes": jpeg(3), "path": None}, **SAID, **ANSWERED}
    folder = tmp_path / "pairing/shard-00000-of-00001"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], PAIRS), folder / "part-00000.parquet")
    return str(tmp_path / "pairing")


TURNS: list[dict[str, object]] = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image"}, {"type": "text", "text": "?"}]},
]


def of_conversations(tmp_path: Path) -> str:
    """What the stage leaves of a pair with two pictures and turns, and of one with one of each."""
    answers = {"chosen": "A cat.", "rejected": "Two cats.", **ANSWERED}
    pictures = [{"bytes": jpeg(number), "path": None} for number in (1, 2)]
    plain = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    rows = [
        {"id": "two", "images": pictures, "messages": TURNS, **answers},
        {"id": "one", "images": pictures[:1], "messages": plain, **answers},
    ]
    folder = tmp_path / "conversations"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, PAIRS_OF_CONVERSATIONS), folder / "part-00000.parquet")
    return str(folder)


def test_several_pictures_and_turns(tmp_path: Path) -> None:
    """As TRL and LLaMA-Factory take them; RLAIF-V's format has no place for them."""
    from datasets import load_dataset
    from trl.data_utils import prepare_multimodal_messages

    given = of_conversations(tmp_path)
    folder = exported(tmp_path, given, "trl")
    data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "hub"))
    assert [image.size for image in data[0]["images"]] == [(8, 6)] * 2
    turns = prepare_multimodal_messages(data[0]["prompt"], data[0]["images"])
    assert [(turn["role"], [part["type"] for part in turn["content"]]) for turn in turns] == [
        ("system", ["text"]), ("user", ["image", "text"]), ("assistant", ["text"]), ("user", ["text", "image", "text"]),
    ]  # fmt: skip
    folder = exported(tmp_path, given, "llama-factory", "factory")
    two, one = json.loads((folder / "feedback_pairs.json").read_text())
    assert two["conversations"] == [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>What is it?"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "And <image>?"},
    ]
    assert [(folder / name).read_bytes() for name in two["images"]] == [jpeg(1), jpeg(2)]
    assert (one["conversations"], len(one["images"])) == ([{"from": "human", "value": "<image>What?"}], 1)
    with pytest.raises(BadInput, match="'two' has 2 pictures and 4 turns, and RLAIF-V's format has one of each"):
        exported(tmp_path, given, "rlaif-v", "rlaif-v")


@pytest.mark.parametrize("rows", [PUBLISHED, SCORED], ids=["without logps", "with logps"])
def test_rlaif_v_goes_in_and_comes_out_as_it_was(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    pairs = converted(tmp_path, rows)
    [file] = exported(tmp_path, pairs, "rlaif-v").iterdir()
    assert pq.read_table(file).to_pylist() == rows
    assert pq.read_table(file).schema.names == list(rows[0])
    assert ("logp" in file.name) == (rows is SCORED), "the reference tells them by the name"
    [again] = exported(tmp_path, pairs, "rlaif-v", "again").iterdir()
    assert again.read_bytes() == file.read_bytes()


def test_our_own_pairs_as_rlaif_v(tmp_path: Path) -> None:
    [file] = exported(tmp_path, of_pairing(tmp_path), "rlaif-v").iterdir()
    assert pq.read_table(file).to_pylist() == [
        {
            **RLAIF_V, "ds_name": "feedback", "origin_dataset": "feedback", "origin_split": "{}", "idx": "coco-9",
            "image_path": "coco-9.jpg", "image": {"bytes": jpeg(3), "path": None},
        }
    ]  # fmt: skip


def test_files_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    monkeypatch.setattr(module, "GROUP_ROWS", 1)
    files = sorted(exported(tmp_path, converted(tmp_path), "rlaif-v").iterdir())
    assert [file.name for file in files] == ["RLAIF-V-Dataset_000.parquet", "RLAIF-V-Dataset_001.parquet"]
    assert [row for file in files for row in pq.read_table(file).to_pylist()] == PUBLISHED


def test_trl(tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    folder = exported(tmp_path, converted(tmp_path), "trl")
    data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "hub"))
    assert is_conversational(data[0])
    assert (data[0]["images"][0].size, data[0]["images"][0].mode) == ((8, 6), "RGB")
    [turn] = prepare_multimodal_messages(data[0]["prompt"], data[0]["images"])
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"] == "What?"
    assert (data[1]["chosen"], data[1]["rejected"]) == (
        [{"role": "assistant", "content": "Ein Hund…\n"}],
        [{"role": "assistant", "content": "A cat."}],
    )


def test_llama_factory(tmp_path: Path) -> None:
    folder = exported(tmp_path, converted(tmp_path, [*PUBLISHED, {**RLAIF_V, "idx": "1"}]), "llama-factory")
    info = json.loads((folder / "dataset_info.json").read_text())["feedback_pairs"]
    assert (info["formatting"], info["ranking"], info["columns"]["messages"]) == ("sharegpt", True, "conversations")
    rows = json.loads((folder / info["file_name"]).read_text())
    assert [row["conversations"] for row in rows] == [[{"from": "human", "value": "<image>What?"}]] * 3
    assert rows[0]["chosen"] == {"from": "gpt", "value": "A dog. "}
    assert rows[0]["rejected"] == {"from": "gpt", "value": "A cat."}
    assert [(folder / row["images"][0]).read_bytes() for row in rows] == [jpeg(1), jpeg(2), jpeg(1)]
    assert len(list((folder / "images").iterdir())) == 2


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no format 'csv'; give one of rlaif-v, trl, llama-factory"):
        exported(tmp_path, converted(tmp_path), "csv")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match=r"none has no \*\.parquet"):
        exported(tmp_path, str(tmp_path / "none"), "trl")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "none/part-00000.parquet")
    with pytest.raises(BadInput, match=r"part-00000.parquet has no column 'image' or 'images' \(its columns are id\)"):
        exported(tmp_path, str(tmp_path / "none"), "trl")
