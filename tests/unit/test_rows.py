"""Instructions read from files: every row comes exactly once, as an instruction or with the reason why not."""

from __future__ import annotations

import base64
import csv
import json
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.identity import row_seed, shard_of
from feedback_workloads.rows.instruction_files import PICTURE_LIMIT_BYTES
from feedback_workloads.rows.instructions import Instruction, read_instructions
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.rows.schemas import IMAGE

EMBEDDED = {"bytes": b"picture", "path": None}
TEXT = st.text(max_size=8)


def read(folder: Path, shard: int = 0, shards: int = 1) -> list[Instruction | Rejected]:
    return list(read_instructions(folder, str(folder), shard, shards))


def reason(row: Instruction | Rejected) -> str | None:
    return row.reason if isinstance(row, Rejected) else None


def write_parquet(folder: Path, rows: list[dict[str, Any]], name: str = "train.parquet") -> None:
    fields = {"id": pa.string(), "image": IMAGE, "question": pa.string(), "truth": pa.string(), "split": pa.string()}
    used = [pa.field(column, kind) for column, kind in fields.items() if column in rows[0]]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(used)), folder / name)


def write_lines(folder: Path, *lines: dict[str, Any] | bytes, name: str = "train.jsonl") -> None:
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / name).write_bytes(b"\n".join(encoded))


# ── files that are fine ──────────────────────────────────────────────────────────────────────────────────────────────


def test_parquet_with_pictures_inside(tmp_path: Path) -> None:
    row = {"id": "a", "image": EMBEDDED, "question": "What?", "truth": "a cat", "split": "report"}
    write_parquet(tmp_path, [row])
    assert read(tmp_path) == [Instruction.plain("a", b"picture", "What?", "a cat", "report")]


def test_pictures_by_path_from_the_folder_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    (tmp_path / "data" / "pictures" / "cat.png").write_bytes(b"cat")
    write_lines(tmp_path / "data", {"id": "a", "image": "pictures/cat.png", "question": "What?"})
    assert read(tmp_path) == [Instruction.plain("a", b"cat", "What?")]
    (tmp_path / "data" / "train.jsonl").unlink()
    row = {"id": "a", "image": {"bytes": None, "path": "pictures/cat.png"}, "question": "What?"}
    write_parquet(tmp_path / "data", [row])
    assert read(tmp_path) == [Instruction.plain("a", b"cat", "What?")]


def test_names_of_the_reference(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    write_lines(tmp_path, {"ds_question_id": 7, "image_path": "cat.png", "question": "What?", "metainfos": {}})
    assert read(tmp_path) == [Instruction.plain("7", b"cat", "What?")]


def test_columns_of_other_arrow_types(tmp_path: Path) -> None:
    columns = {
        "id": pa.array([1, 2]),
        "image": pa.array([EMBEDDED, EMBEDDED], IMAGE),
        "question": pa.array(["What?", "Who?"], pa.large_string()),
        "truth": pa.array([None, None]),
        "split": pa.array(["report", "report"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    assert read(tmp_path) == [
        Instruction.plain("1", b"picture", "What?", None, "report"),
        Instruction.plain("2", b"picture", "Who?", None, "report"),
    ]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_is_text_in_whatever_type_a_library_writes_it(kind: pa.DataType, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    columns = {"id": "a", "image": "cat.png", "question": "What?", "truth": "a cat", "split": "report"}
    table = pa.table({name: pa.array([value]).cast(kind) for name, value in columns.items()})
    pq.write_table(table, tmp_path / "train.parquet")
    assert read(tmp_path) == [Instruction.plain("a", b"cat", "What?", "a cat", "report")]


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "c.parquet"):
        write_parquet(tmp_path, [{"id": name[0], "image": EMBEDDED, "question": "What?"}], name)
    assert [row.id for row in read(tmp_path)] == ["a", "b", "c"]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    line = json.dumps({"id": "a", "image": "cat.png", "question": "What?"}).encode()
    write_lines(tmp_path, b"\xef\xbb\xbf" + line, b"", b"  ", b"")
    assert read(tmp_path) == [Instruction.plain("a", b"cat", "What?")]


def encoded(kind: str) -> bytes:
    data = BytesIO()
    Image.effect_noise((9, 7), 90).convert("RGB").save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize(
    "spelled",
    [
        pytest.param(base64.b64encode, id="plain"),
        pytest.param(base64.encodebytes, id="with line breaks"),
        pytest.param(lambda data: base64.b64encode(data).rstrip(b"="), id="without padding"),
        pytest.param(base64.urlsafe_b64encode, id="the alphabet of URLs"),
        pytest.param(lambda data: b"data:image/any;base64," + base64.b64encode(data), id="data URL"),
        pytest.param(
            lambda data: b"data:image/any;base64," + base64.b64encode(data).replace(b"+", b"%2B").replace(b"=", b"%3D"),
            id="data URL in percents",
        ),
    ],
)
def test_a_picture_in_base64(tmp_path: Path, spelled: Any, kind: str) -> None:
    data = encoded(kind)
    write_lines(tmp_path, {"id": "a", "image": spelled(data).decode(), "question": "What?"})
    assert read(tmp_path) == [Instruction.plain("a", data, "What?")]


def test_a_picture_in_base64_or_in_bytes_of_parquet(tmp_path: Path) -> None:
    data = encoded("JPEG")
    texts = {"id": ["a"], "image": [base64.b64encode(data).decode()], "question": ["What?"]}
    pq.write_table(pa.table(texts), tmp_path / "train.parquet")
    assert read(tmp_path) == [Instruction.plain("a", data, "What?")]
    pq.write_table(pa.table({**texts, "image": [data]}), tmp_path / "train.parquet")
    assert read(tmp_path) == [Instruction.plain("a", data, "What?")]


def test_a_path_that_looks_like_base64_is_a_path(tmp_path: Path) -> None:
    name = "Qk" + "a" * 60
    (tmp_path / name).write_bytes(b"cat")
    write_lines(tmp_path, {**GOOD, "image": name}, {**GOOD, "id": "b", "image": "/9j/" + "a" * 20})
    assert [(row.id, reason(row)) for row in read(tmp_path)] == [("a", None), ("b", "missing-picture")]


def test_what_is_told_of_a_long_text_is_short(tmp_path: Path) -> None:
    broken = "data:image/png;base64,!!!"
    write_lines(tmp_path, {**GOOD, "image": "A" * 400_000}, {**GOOD, "id": "b", "image": broken})
    rows = read(tmp_path)
    assert [(row.id, reason(row)) for row in rows] == [("a", "missing-picture"), ("b", "undecodable-picture")]
    assert max(len(row.detail) for row in rows if isinstance(row, Rejected)) < 200


@pytest.mark.parametrize(("name", "between"), [("train.csv", ","), ("train.tsv", "\t")])
def test_csv_and_tsv(tmp_path: Path, name: str, between: str) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    data = encoded("PNG") * 3000  # longer than the csv module's own limit
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as stream:
        rows = csv.writer(stream, delimiter=between)
        rows.writerow(["question", "ds_question_id", "image", "truth", "notes"])
        rows.writerow(['What,\n"exactly"?', 7, "cat.png", "", "x"])
        rows.writerow([])
        rows.writerow(["Who?", "b", base64.b64encode(data).decode(), "a cat", ""])
        rows.writerow(["", "c", "cat.png", "", ""])
        rows.writerow(["Why?", "d", "cat.png"])
    with (tmp_path / name).open("ab") as stream:
        stream.write(between.join(["Wh\xff", "e", "cat.png", "", ""]).encode("latin-1") + b"\r\n")
    assert read(tmp_path)[:2] == [
        Instruction.plain("7", b"cat", 'What,\n"exactly"?'),
        Instruction.plain("b", data, "Who?", "a cat"),
    ]
    assert [(row.id, reason(row)) for row in read(tmp_path)[2:]] == [
        ("c", "empty-question"),
        (f"{name}:6", "wrong-fields"),
        ("e", "not-utf-8"),
    ]


def test_files_that_are_no_data_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    write_lines(tmp_path, {**GOOD})
    no_data = ("._train.jsonl", "_SUCCESS.jsonl", "_log/1.parquet", ".cache/a.parquet", "README.md", "notes.csv")
    for name in no_data:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\1")
    (tmp_path / "empty.parquet").touch()
    assert read(tmp_path) == [Instruction.plain("a", b"cat", "What?")]


# ── rows that are not ────────────────────────────────────────────────────────────────────────────────────────────────

GOOD: dict[str, Any] = {"id": "a", "image": "cat.png", "question": "What?"}


@pytest.mark.parametrize(
    ("line", "id", "expected"),
    [
        pytest.param({**GOOD, "id": ""}, "train.jsonl:2", "missing-id", id="empty id"),
        pytest.param({**GOOD, "id": " "}, "train.jsonl:2", "missing-id", id="blank id"),
        pytest.param({**GOOD, "id": None}, "train.jsonl:2", "missing-id", id="null id"),
        pytest.param({"image": "cat.png", "question": "What?"}, "train.jsonl:2", "missing-id", id="no id"),
        pytest.param({**GOOD, "id": ["a"]}, "train.jsonl:2", "wrong-type", id="id is a list"),
        pytest.param({**GOOD, "id": True}, "train.jsonl:2", "wrong-type", id="id is a boolean"),
        pytest.param({**GOOD, "id": "first"}, "train.jsonl:2", "duplicate-id", id="id is taken"),
        pytest.param({**GOOD, "question": ""}, "a", "empty-question", id="empty question"),
        pytest.param({**GOOD, "question": "\n"}, "a", "empty-question", id="blank question"),
        pytest.param({"id": "a", "image": "cat.png"}, "a", "empty-question", id="no question"),
        pytest.param({**GOOD, "question": 3}, "a", "wrong-type", id="question is a number"),
        pytest.param({**GOOD, "image": "dog.png"}, "a", "missing-picture", id="no such picture"),
        pytest.param({**GOOD, "image": "empty.png"}, "a", "missing-picture", id="empty picture"),
        pytest.param({**GOOD, "image": None}, "a", "missing-picture", id="null picture"),
        pytest.param({**GOOD, "image": "."}, "a", "missing-picture", id="picture is a folder"),
        pytest.param({**GOOD, "image": "../cat.png"}, "a", "missing-picture", id="path leads out"),
        pytest.param({**GOOD, "image": "/etc/passwd"}, "a", "missing-picture", id="absolute path"),
        pytest.param({**GOOD, "image": "cat\0.png"}, "a", "missing-picture", id="path with NUL"),
        pytest.param({**GOOD, "image": "\ud800"}, "a", "missing-picture", id="path with a lone surrogate"),
        pytest.param({**GOOD, "image": "huge.png"}, "a", "picture-too-large", id="huge picture"),
        pytest.param({**GOOD, "question": "\ud800"}, "a", "not-utf-8", id="question with a lone surrogate"),
        pytest.param(b'{"id": "a", "question": "\xff"}', "train.jsonl:2", "not-utf-8", id="not UTF-8"),
        pytest.param(b'{"id": "a", ', "train.jsonl:2", "not-json", id="not JSON"),
        pytest.param(b"[" * 100_000, "train.jsonl:2", "not-json", id="JSON too deep"),
        pytest.param(b'["a"]', "train.jsonl:2", "not-json", id="not an object"),
    ],
)
def test_a_bad_line_is_rejected_and_the_rest_goes_on(
    tmp_path: Path, line: dict[str, Any] | bytes, id: str, expected: str
) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    (tmp_path / "empty.png").touch()
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(PICTURE_LIMIT_BYTES + 1)
    write_lines(tmp_path, {**GOOD, "id": "first"}, line, {**GOOD, "id": "last"})
    rows = read(tmp_path)
    assert [(row.id, reason(row)) for row in rows] == [("first", None), (id, expected), ("last", None)]
    assert str(tmp_path) not in repr(rows), "the same words on every host"


@pytest.mark.parametrize("place", range(3), ids=["first", "middle", "last"])
@pytest.mark.parametrize(
    ("lacks", "id", "expected"),
    [
        pytest.param("id", "train.jsonl:{}", "missing-id", id="id"),
        pytest.param("image", "poor", "missing-picture", id="image"),
        pytest.param("question", "poor", "empty-question", id="question"),
    ],
)
def test_a_row_without_a_column_does_not_cost_the_whole_data_set(
    lacks: str, id: str, expected: str, place: int, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    rows = [{**GOOD, "id": name} for name in ("one", "two")]
    poor = {name: value for name, value in {**GOOD, "id": "poor"}.items() if name != lacks}
    write_lines(tmp_path, *rows[:place], poor, *rows[place:])
    found = [(row.id, reason(row)) for row in read(tmp_path)]
    assert found.pop(place) == (id.format(place + 1), expected)
    assert found == [("one", None), ("two", None)]


@pytest.mark.parametrize("first", [{}, {"truth": "a dog"}, {"split": "report"}, {"truth": None, "split": None}, b"{"])
def test_truth_and_split_are_not_dropped_from_rows_after_one_without_them(
    first: dict[str, str | None] | bytes, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    poor = first if isinstance(first, bytes) else {**GOOD, "id": "first", **first}
    write_lines(tmp_path, poor, {**GOOD, "truth": "a cat", "split": "selection"})
    assert read(tmp_path)[-1] == Instruction.plain("a", b"cat", "What?", "a cat", "selection")


def test_text_that_is_not_utf_8_in_parquet_spoils_its_own_row(tmp_path: Path) -> None:
    questions = pa.array([b"What?", b"\xff", b"Who?"], pa.binary()).view(pa.string())
    columns = {"id": pa.array(["a", "b", "c"]), "image": pa.array([EMBEDDED] * 3, IMAGE), "question": questions}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    assert [(row.id, reason(row)) for row in read(tmp_path)] == [("a", None), ("b", "not-utf-8"), ("c", None)]


def test_an_id_is_taken_even_by_a_row_that_is_rejected(tmp_path: Path) -> None:
    write_parquet(tmp_path, [{"id": "a", "image": EMBEDDED, "question": q} for q in ("", "What?")])
    assert [(row.id, reason(row)) for row in read(tmp_path)] == [
        ("a", "empty-question"),
        ("train.parquet:2", "duplicate-id"),
    ]


# ── files that are not ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({}, r"has no \*.parquet, \*.jsonl, \*.csv or \*.tsv file", id="nothing to read"),
        pytest.param({"a.jsonl": b"{}", "b.parquet": b"PAR1"}, "has both parquet and JSON lines", id="two kinds"),
        pytest.param({"a.parquet": b"no parquet"}, "a.parquet is not a readable parquet file", id="no parquet"),
        pytest.param({"a.jsonl": b'{"name": "a"}'}, "a.jsonl has no column 'id' or 'ds_question_id'", id="no id"),
        pytest.param(
            {"a.csv": b"id,image\na,cat.png\n"}, r"a.csv has no column 'question' \(its columns are", id="CSV"
        ),
        pytest.param(
            {"a.jsonl": b'{"id": "a"}\n{"id": "b", "image": "cat.png", "prompt": "What?"}'},
            r"a.jsonl has no column 'question' or 'messages' \(its columns are id\)",
            id="no question in any row",
        ),
        pytest.param(
            {"a.csv": b"id,image,messages\na,cat.png,[]\n"},
            r"a.csv cannot hold the lists of a column 'messages'; give JSON lines or parquet",
            id="turns in CSV",
        ),
    ],
)
def test_a_folder_that_cannot_be_read_is_bad_input(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_damaged_in_the_middle_is_bad_input(tmp_path: Path) -> None:
    write_parquet(tmp_path, [{"id": str(n), "image": EMBEDDED, "question": f"What {n}?"} for n in range(1000)])
    file = tmp_path / "train.parquet"
    data = bytearray(file.read_bytes())
    data[100:2000] = bytes(1900)
    file.write_bytes(data)
    with pytest.raises(BadInput, match=r"train.parquet is not a readable parquet file"):
        read(tmp_path)


# ── shards and seeds ─────────────────────────────────────────────────────────────────────────────────────────────────

VALUE = st.none() | TEXT | st.integers() | st.booleans() | st.lists(TEXT, max_size=2)
LINE = st.fixed_dictionaries(
    {"id": VALUE, "image": st.just("cat.png") | VALUE, "question": TEXT | VALUE}, optional={"truth": VALUE}
)


@settings(deadline=None)  # files are slow on a busy machine
@given(lines=st.lists(LINE | st.binary(max_size=8), max_size=12), shards=st.integers(1, 4))
def test_every_row_comes_in_exactly_one_shard(lines: list[dict[str, Any] | bytes], shards: int) -> None:
    raw = [line.replace(b"\n", b"") if isinstance(line, bytes) else line for line in lines]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cat.png").write_bytes(b"cat")
        write_lines(folder, {**GOOD, "id": "first"}, *raw)
        whole = read(folder)
        parts = [read(folder, shard, shards) for shard in range(shards)]
    places = len({row.id for row in whole})
    assert places == len(whole), "ids are unique, also those of rejected rows"
    assert sum(isinstance(line, dict) for line in raw) + 1 <= len(whole) <= len(raw) + 1
    assert sorted((row.id, reason(row)) for part in parts for row in part) == sorted((r.id, reason(r)) for r in whole)
    for shard, part in enumerate(parts):
        assert [row for row in whole if row in part] == part, "in the order of the file"
        assert all(shard_of(row.id, shards) == shard for row in part if isinstance(row, Instruction))


@given(id=TEXT, shards=st.integers(1, 1000))
def test_a_shard_is_one_of_them(id: str, shards: int) -> None:
    assert 0 <= shard_of(id, shards) < shards


def test_shards_are_of_about_the_same_size() -> None:
    sizes = [0] * 8
    for number in range(8000):
        sizes[shard_of(f"row-{number}", 8)] += 1
    assert max(sizes) < 1150
    assert min(sizes) > 850


@given(seed=st.integers(-(2**63), 2**63), id=TEXT, candidate=st.integers(0, 1000))
def test_a_seed_fits_a_signed_64_bit_integer(seed: int, id: str, candidate: int) -> None:
    assert 0 <= row_seed(seed, id, candidate) < 2**63


def test_seeds_are_all_different_and_stay_what_they_are() -> None:
    seeds = {row_seed(seed, f"row-{n}", c) for seed in range(3) for n in range(100) for c in range(10)}
    assert len(seeds) == 3000
    assert row_seed(0, "a", 0) == 8556529851242828198
    assert shard_of("a", 1000) == 18
