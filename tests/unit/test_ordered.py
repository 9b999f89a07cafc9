"""Parts do not depend on the order in which rows were finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.rows.schemas import CLAIMS
from feedback_workloads.stages.ordered import OrderedParts, stored_table
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.parts import Parts

Key = tuple[str, int]
INSTRUCTIONS = {"d": 2, "a": 3, "c": 1, "b": 2, "e": 1}
KEYS = [(id, candidate) for id, candidates in INSTRUCTIONS.items() for candidate in range(candidates)]


def row(key: Key) -> dict[str, Any]:
    return {"id": key[0], "candidate": key[1], "claims": [], "questions": []}


def written(folder: Path) -> list[list[Key]]:
    """Ids and candidates of the rows of each part."""
    tables = [pq.read_table(file) for file in sorted(folder.glob("part-*.parquet"))]
    return [[(found["id"], found["candidate"]) for found in table.to_pylist()] for table in tables]


def write(
    folder: Path,
    arrivals: Sequence[Key],
    part_rows: int = 2,
    rejected: Sequence[Key] = (),
    ended_by: SystemExit | None = None,
    kind: type[Parts] = Parts,
) -> None:
    parts = kind(ArtifactStore(folder / "cache").objects(str(folder)), str(folder), CLAIMS)
    with OrderedParts(parts, part_rows, Progress("splitting")) as output:
        for id, candidates in INSTRUCTIONS.items():
            output.begin(id, candidates)
        for key in arrivals:
            if key in rejected:
                output.reject(Rejected(*key, "too-long", ""))
            else:
                output.add(row(key))
        if ended_by:
            raise ended_by


@settings(max_examples=20, deadline=None)
@given(st.permutations(KEYS))
def test_any_arrival_gives_the_same_parts(arrivals: list[Key]) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder), arrivals)
        assert written(Path(folder)) == [
            [("d", 0), ("d", 1), ("a", 0), ("a", 1), ("a", 2)],
            [("c", 0), ("b", 0), ("b", 1)],
            [("e", 0)],
        ]


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([("d", 0), ("e", 0)], [], id="only later ones are whole"),
        pytest.param([("a", 1), ("d", 1), ("d", 0), ("a", 0)], [[("d", 0), ("d", 1)]], id="the first is whole"),
    ],
)
def test_what_is_whole_is_written_when_the_block_is_left_early(
    tmp_path: Path, arrivals: list[Key], expected: list[list[Key]]
) -> None:
    with pytest.raises(SystemExit):
        write(tmp_path, arrivals, part_rows=3, ended_by=SystemExit(143))
    assert written(tmp_path) == expected


def test_an_interrupted_write_is_not_followed_by_another(tmp_path: Path) -> None:
    """Whether it happened is not known; a second part of the same number would contradict it."""

    class Interrupted(Parts):
        def write(self, rows: Any, rejected: Any = ()) -> None:
            super().write(rows, rejected)
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        write(tmp_path, [("a", 0), ("a", 1), ("a", 2), ("d", 0), ("d", 1)], part_rows=1, kind=Interrupted)
    assert written(tmp_path) == [[("d", 0), ("d", 1)]]


def test_rejected_candidates_and_instructions_keep_their_place(tmp_path: Path) -> None:
    write(tmp_path, KEYS, part_rows=2, rejected=[("a", 1), ("c", 0)])
    assert written(tmp_path)[:2] == [
        [("d", 0), ("d", 1), ("a", 0), ("a", 2)],
        [("b", 0), ("b", 1)],
    ]
    with ArtifactStore(tmp_path / "cache").append(str(tmp_path), CLAIMS) as parts:
        assert parts.finished_ids() == set(INSTRUCTIONS)
        assert parts.counts() == {"rows": 7, "rejected": 2, "rejected_too-long": 2}


def test_instructions_that_were_never_begun_can_be_rejected(tmp_path: Path) -> None:
    parts = Parts(ArtifactStore(tmp_path / "cache").objects(str(tmp_path)), str(tmp_path), CLAIMS)
    with OrderedParts(parts, 8, Progress("splitting")) as output:
        output.reject(Rejected("data.jsonl:3", None, "not-json", ""))
    assert parts.counts()["rejected"] == 1


def test_what_is_stored_is_checked_after_each_part(tmp_path: Path) -> None:
    """The part that is one too many is kept: it lists the rows to be mended."""

    def check(counts: Mapping[str, int]) -> None:
        if counts["rejected"] > 2:
            raise BadInput("too many")

    parts = Parts(ArtifactStore(tmp_path / "cache").objects(str(tmp_path)), str(tmp_path), CLAIMS)
    with OrderedParts(parts, 2, Progress("splitting"), check=check) as output:
        for number in range(3):
            output.reject(Rejected(str(number), None, "too-long", ""))
        with pytest.raises(BadInput):
            output.reject(Rejected("3", None, "too-long", ""))
    assert parts.counts()["rejected"] == 4


def test_stored_rows_are_read_back(tmp_path: Path) -> None:
    write(tmp_path, KEYS)
    store = ArtifactStore(tmp_path / "cache")
    with store.append(str(tmp_path), CLAIMS) as parts:
        table = stored_table(store, str(tmp_path), parts.files(), CLAIMS, ["candidate"])
    assert table.column_names == ["candidate"]
    assert table.num_rows == len(KEYS)
    assert stored_table(store, str(tmp_path), (), CLAIMS, ["id"]).num_rows == 0
