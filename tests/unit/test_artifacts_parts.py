"""Parts survive a kill at any moment: nothing is lost but the part that was being written, and nothing comes twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.rows.schemas import CLAIMS
from feedback_workloads.storage.objects import Digest, FileObjects, Listed
from feedback_workloads.storage.parts import Parts


class Killed(Exception):
    """The process ends here."""


@dataclass
class Mortal(FileObjects):
    """A disk whose user is killed when it has written so many files, just before or after one of them is in place."""

    writes: int
    after: bool

    def write(self, uri: str, data: bytes) -> None:
        self._die_before()
        super().write(uri, data)
        self._die_after()

    def create(self, uri: str, data: bytes) -> bool:
        self._die_before()
        created = super().create(uri, data)
        self._die_after()
        return created

    def _die_before(self) -> None:
        if self.writes == 0 and not self.after:
            raise Killed

    def _die_after(self) -> None:
        if self.writes == 0:
            raise Killed
        self.writes -= 1


@dataclass(frozen=True)
class Work:
    """An instruction's outcome: so many answers, and whether one of them was rejected."""

    id: str
    answers: int
    rejected: bool

    def rows(self) -> list[dict[str, object]]:
        return [{"id": self.id, "candidate": n, "claims": [], "questions": []} for n in range(self.answers)]

    def rejects(self) -> list[Rejected]:
        return [Rejected(self.id, self.answers, "claims-mismatch", "")] if self.rejected else []


def stage(parts: Parts, work: list[Work], part_rows: int) -> None:
    """What every stage does: leave out what is finished, write the rest part by part."""
    todo = [one for one in work if one.id not in parts.finished_ids()]
    for start in range(0, len(todo), part_rows):
        batch = todo[start : start + part_rows]
        parts.write([row for one in batch for row in one.rows()], [row for one in batch for row in one.rejects()])


WORK = st.lists(
    st.tuples(st.integers(0, 3), st.booleans()).filter(lambda one: one != (0, False)), min_size=1, max_size=12
).map(lambda outcomes: [Work(str(n), answers, rejected) for n, (answers, rejected) in enumerate(outcomes)])
KILLS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6)


@settings(deadline=None, max_examples=60)  # files are slow on a busy machine
@given(work=WORK, kills=KILLS, part_rows=st.integers(1, 5), other_part_rows=st.integers(1, 5))
def test_kills_lose_and_double_nothing(
    work: list[Work], kills: list[tuple[int, bool]], part_rows: int, other_part_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        uri = f"{name}/artifact"
        for attempt, (writes, after) in enumerate(kills):
            rows = part_rows if attempt % 2 else other_part_rows
            try:
                stage(Parts(Mortal(writes, after), uri, CLAIMS), work, rows)
            except Killed:
                continue
        parts = Parts(FileObjects(), uri, CLAIMS)
        stage(parts, work, part_rows)
        again = Parts(FileObjects(), uri, CLAIMS)
        assert (again.files(), again.counts(), again.finished_ids()) == (
            parts.files(),
            parts.counts(),
            parts.finished_ids(),
        )
        assert parts.finished_ids() == {one.id for one in work}
        assert parts.counts()["rows"] == sum(one.answers for one in work)
        assert parts.counts()["rejected"] == sum(one.rejected for one in work)
        for file in parts.files():
            assert Digest.of((Path(uri) / file.name).read_bytes()) == Digest(file.sha256, file.bytes)


def test_a_rejected_file_without_its_part_counts_for_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path)
    with pytest.raises(Killed):
        Parts(Mortal(1, after=False), uri, CLAIMS).write([], [Rejected("a", None, "empty-question", "")])
    assert [file.name for file in tmp_path.iterdir()] == ["rejected-00000.parquet"]
    parts = Parts(FileObjects(), uri, CLAIMS)
    assert (parts.finished_ids(), parts.files()) == (frozenset(), ())
    parts.write(Work("a", 1, rejected=False).rows())
    again = Parts(FileObjects(), uri, CLAIMS)
    assert again.counts() == {"rows": 1, "rejected": 0}, "nor once a part of its number is there"
    assert [file.name for file in again.files()] == ["part-00000.parquet"]


def test_a_lost_answer_to_a_write_is_no_other_writer(tmp_path: Path) -> None:
    class Twice(FileObjects):
        """A server whose answer is lost: the client asks again, and hears that the object is there."""

        def create(self, uri: str, data: bytes) -> bool:
            super().create(uri, data)
            return super().create(uri, data)

    parts = Parts(Twice(), str(tmp_path), CLAIMS)
    parts.write(Work("a", 1, rejected=False).rows())
    assert parts.finished_ids() == {"a"}


def test_nothing_to_write_is_no_part(tmp_path: Path) -> None:
    parts = Parts(FileObjects(), str(tmp_path), CLAIMS)
    parts.write([])
    assert (parts.files(), parts.counts(), list(tmp_path.iterdir())) == ((), {"rows": 0, "rejected": 0}, [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({"id": "a", "candidate": 0, "claims": []}, "a row has the columns", id="a column is missing"),
        pytest.param(
            {"id": "a", "candidate": 0, "claims": [], "questions": [], "more": 1},
            "a row has the columns",
            id="one more",
        ),
        pytest.param(
            {"id": "a", "candidate": None, "claims": [], "questions": []},
            "'candidate' is declared non-nullable",
            id="null",
        ),
    ],
)
def test_a_row_has_exactly_the_columns(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parts(FileObjects(), str(tmp_path), CLAIMS).write([row])
    assert list(tmp_path.iterdir()) == []


def test_a_part_whose_rejected_file_is_lost_is_named(tmp_path: Path) -> None:
    Parts(FileObjects(), str(tmp_path), CLAIMS).write([], Work("a", 0, rejected=True).rejects())
    (tmp_path / "rejected-00000.parquet").unlink()
    with pytest.raises(BadInput, match=r"rejected-00000.parquet does not belong to .*part-00000.parquet"):
        Parts(FileObjects(), str(tmp_path), CLAIMS)


def test_files_that_are_being_written_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".part-1-abc").write_bytes(b"half")
    (tmp_path / "whole").write_bytes(b"whole")

    def names(found: Iterator[Listed]) -> list[str]:
        return [listed.name for listed in found]

    assert names(FileObjects().list(str(tmp_path))) == ["whole"]
    assert names(FileObjects().list(str(tmp_path / "nowhere"))) == []
