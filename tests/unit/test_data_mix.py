"""Samples of converted data sets: balanced, disjoint, without what was seen and without benchmarks' pictures."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from feedback_workloads.contract import BadInput, Source
from feedback_workloads.data.convert import convert
from feedback_workloads.data.fingerprints import Fingerprint, Fingerprints
from feedback_workloads.data.mix import Wanted, mix, share
from feedback_workloads.storage.artifacts import ArtifactStore


def scene(seed: int) -> Image.Image:
    """A picture with structure, as photographs have it: soft blots of colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def data_set(tmp_path: Path, name: str, pictures: Mapping[str, bytes]) -> str:
    """A converted data set with a row a picture, whose id is the picture's name without its ending."""
    folder = tmp_path / f"{name}-files"
    folder.mkdir()
    for file, data in pictures.items():
        (folder / file).write_bytes(data)
    rows = [{"id": file.split(".")[0], "image": file, "question": f"What is {file}?"} for file in pictures]
    (folder / "rows.json").write_text(json.dumps(rows))
    to = str(tmp_path / name)
    convert(ArtifactStore(tmp_path / "cache"), "table", given=[str(folder)], to=to, options={}, called=name)
    return to


def numbered(start: int, many: int) -> dict[str, bytes]:
    return {f"{seed}.png": encoded(scene(seed)) for seed in range(start, start + many)}


def mixed(
    tmp_path: Path, sets: list[str], rows: int, iterations: int = 1, seed: int = 0, to: str = "mix", **avoid: str
) -> list[list[str]]:
    """The ids of each iteration."""
    store = ArtifactStore(tmp_path / "cache")
    mix(store, sets, str(tmp_path / to), Wanted(rows, iterations, seed), avoid)
    folders = [tmp_path / to / f"iteration-{number}" for number in range(1, iterations + 1)]
    return [[row.id for row in store.instructions(Source(uri=str(folder)))] for folder in folders]


def left_out(tmp_path: Path) -> dict[str, str]:
    rows = map(json.loads, (tmp_path / "mix/_rejected.jsonl").read_text().splitlines())
    return {row["id"]: row["reason"] for row in rows}


def test_balanced_over_sources_and_disjoint_over_iterations(tmp_path: Path) -> None:
    sets = [data_set(tmp_path, "a", numbered(0, 30)), data_set(tmp_path, "b", numbered(100, 12))]
    found = mixed(tmp_path, sets, rows=8, iterations=3)
    assert [Counter(id[0] for id in ids) for ids in found] == [{"a": 4, "b": 4}] * 3
    assert len({id for ids in found for id in ids}) == 24


def test_where_a_source_has_no_more_the_others_give_the_rest(tmp_path: Path) -> None:
    sets = [data_set(tmp_path, "a", numbered(0, 20)), data_set(tmp_path, "b", numbered(100, 3))]
    found = mixed(tmp_path, sets, rows=8, iterations=2)
    assert Counter(id[0] for ids in found for id in ids) == {"a": 13, "b": 3}
    assert [len(ids) for ids in found] == [8, 8]


def test_the_seed_decides_and_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    sets = [data_set(tmp_path, "a", numbered(0, 30))]
    first = mixed(tmp_path, sets, rows=5)
    assert mixed(tmp_path, sets, rows=5, to="again") == first
    assert mixed(tmp_path, sets, rows=5, seed=1, to="other") != first
    name = "iteration-1/part-00000.parquet"
    assert (tmp_path / "mix" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_data_set_that_is_given_twice_is_taken_once(tmp_path: Path) -> None:
    one = data_set(tmp_path, "a", numbered(0, 6))
    assert sorted(mixed(tmp_path, [one, one], rows=6)[0]) == [f"a-{n}" for n in range(6)]
    assert left_out(tmp_path) == {}


def test_duplicates_are_left_out_also_where_they_only_look_the_same(tmp_path: Path) -> None:
    picture = scene(1)
    others = {
        "same.png": encoded(picture),
        "jpeg.jpg": encoded(picture, "JPEG", quality=60),
        "small.png": encoded(picture.resize((80, 60))),
        "other.png": encoded(scene(2)),
        "broken.png": encoded(picture)[:200],
    }
    sets = [data_set(tmp_path, "a", {"first.png": encoded(picture)}), data_set(tmp_path, "b", others)]
    [found] = mixed(tmp_path, sets, rows=2)
    assert len(found) == 2
    assert "b-other" in found
    reasons = Counter(left_out(tmp_path).values())
    assert set(reasons) <= {"same-picture", "similar-picture", "undecodable-picture"}
    with pytest.raises(BadInput, match=r"have 2 rows with pictures of their own, fewer than 1 iterations of 3"):
        mixed(tmp_path, sets, rows=3, to="more")


def test_pictures_of_benchmarks_are_left_out(tmp_path: Path) -> None:
    pictures = numbered(0, 8)
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "x.jpg").write_bytes(encoded(scene(0).resize((120, 90)), "JPEG", quality=70))
    rows = [{"id": "1", "image": base64.b64encode(pictures["1.png"]).decode()}]
    (bench / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = data_set(tmp_path, "a", pictures)
    assert sorted(mixed(tmp_path, [one], rows=6, amber=str(bench))[0]) == [f"a-{n}" for n in range(2, 8)]
    assert set(left_out(tmp_path).values()) <= {"benchmark-picture"}
    card = (tmp_path / "mix/README.md").read_text()
    assert "No picture is one of these benchmarks': amber (2)." in card


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"question_id": 1, "image": "COCO_val2014_000000000007.jpg", "text": "Is there"}, id="POPE"),
        pytest.param({"image_id": 7, "caption": "a dog"}, id="CHAIR"),
        pytest.param({"image_id": "000000000007.jpg", "question": "What?"}, id="a name"),
    ],
)
def test_pictures_of_coco_that_a_benchmark_only_names_are_left_out(tmp_path: Path, row: dict[str, object]) -> None:
    folder = tmp_path / "coco"
    names = {7: "COCO_val2014_000000000007.jpg", 8: "train2017/000000000008.jpg"}
    captions = {
        "images": [{"id": id, "file_name": name} for id, name in names.items()],
        "licenses": [],
        "annotations": [],
    }
    for id, name in names.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(encoded(scene(id)))
    (folder / "captions_val2014.json").write_text(json.dumps(captions))
    store, made = ArtifactStore(tmp_path / "cache"), str(tmp_path / "made")
    convert(store, "coco", given=[str(folder)], to=made, options={}, called=None)
    (tmp_path / "pope.json").write_text(json.dumps(row))
    assert mixed(tmp_path, [made], rows=1, pope=str(tmp_path / "pope.json")) == [["coco-8"]]
    with pytest.raises(BadInput, match="have 1 rows"):
        mixed(tmp_path, [made], rows=2, to="more", pope=str(tmp_path / "pope.json"))


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    one = data_set(tmp_path, "a", numbered(0, 2))
    with pytest.raises(BadInput, match="a-files was not made by feedback data convert"):
        mixed(tmp_path, [f"{one}-files"], rows=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty has no picture of pope"):
        mixed(tmp_path, [one], rows=1, pope=str(tmp_path / "empty"))


def test_a_mix_keeps_its_rows_and_says_of_what_it_is(tmp_path: Path) -> None:
    one = data_set(tmp_path, "a", numbered(0, 3))
    mixed(tmp_path, [one], rows=3)
    rows = pq.read_table(tmp_path / "mix/iteration-1/part-00000.parquet").to_pylist()
    assert rows == pq.read_table(Path(one) / "part-00000.parquet").to_pylist()
    card = (tmp_path / "mix/README.md").read_text()
    assert "config_name: iteration-1" in card
    assert "| a table (`a`) | 3 |" in card


@given(st.integers(0, 50), st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_shares_are_as_equal_as_they_can_be(total: int, available: list[int]) -> None:
    shares = share(total, available)
    assert sum(shares) == min(total, sum(available))
    assert all(got <= has for got, has in zip(shares, available, strict=True))
    least = min((got for got, has in zip(shares, available, strict=True) if got < has), default=None)
    assert least is None or max(shares) <= least + 1


def test_pictures_without_structure_are_told_apart_by_their_colours() -> None:
    seen = Fingerprints()
    seen.add(Fingerprint.of(encoded(Image.new("RGB", (64, 64), "red"))), "red")
    assert seen.near(Fingerprint.of(encoded(Image.new("RGB", (64, 64), "blue")))) is None
    assert seen.near(Fingerprint.of(encoded(Image.new("RGB", (32, 32), "red"), "JPEG"))) == "red"


def test_different_scenes_are_different() -> None:
    seen = Fingerprints()
    for seed in range(300):
        fingerprint = Fingerprint.of(encoded(scene(seed)))
        assert seen.near(fingerprint) is None
        seen.add(fingerprint, str(seed))
    again = Fingerprint.of(encoded(scene(234), "JPEG", quality=40))
    assert (seen.same(again), seen.near(again)) == (None, "234")
