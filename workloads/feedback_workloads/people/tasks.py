"""The tasks of a folder: claims or pairs of an iteration, drawn by a seed, without a word of who made them."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from feedback_workloads.contract import Artifact, BadInput, Source
from feedback_workloads.report.iteration import Iteration
from feedback_workloads.rows.conversations import question_of
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.pair_files import asked_in
from feedback_workloads.rows.schemas import CLAIMS, SAMPLES, VERDICTS

if TYPE_CHECKING:
    from feedback_workloads.storage.artifacts import ArtifactStore

Kind = Literal["claims", "pairs"]
CHOICES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "claims": ("yes", "no", "cannot tell"),
    "pairs": ("first", "second", "tie"),
}
"""What a person may say: whether a claim is true of the picture; which of two answers is the better one."""
UNDECIDED: Final = "cannot tell"
"""What counts as not said, where agreement is measured."""
TASKS: Final = "tasks.json"
PICTURES: Final = "pictures"
COLUMNS: Final = ("id", "chosen", "rejected", "chosen_candidate", "rejected_candidate")
"""What a task is made from, of a pair."""


@dataclass(frozen=True)
class Task:
    """What is asked of a person, and what the labeler says to it, one of CHOICES, which no page shows.

    `texts` are the answer and the claim in it, or the two answers in the order in which they are shown. `pictures` are
    names of files in PICTURES.
    """

    id: str
    pictures: tuple[str, ...]
    question: str
    texts: tuple[str, str]
    labeler: str


@dataclass(frozen=True)
class Tasks:
    """All tasks of a folder, of one kind, in the order in which they are shown."""

    kind: Kind
    folder: Path
    tasks: tuple[Task, ...]

    @classmethod
    def read(cls, folder: Path) -> Tasks:
        """Raises BadInput where there are none."""
        file = folder / TASKS
        try:
            content = json.loads(file.read_bytes())
            tasks = tuple(
                Task(**{**one, "texts": tuple(one["texts"]), "pictures": tuple(one["pictures"])})
                for one in content["tasks"]
            )
            return cls(content["kind"], folder, tasks)
        except OSError as error:
            raise BadInput(f"{file}: {error.strerror}; name a folder that `feedback annotate` made") from error
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{file} has no tasks ({error}); name a folder that `feedback annotate` made") from error

    def pictures(self, task: Task) -> list[bytes]:
        return [(self.folder / PICTURES / name).read_bytes() for name in task.pictures]

    def number(self, id: str) -> int:
        """Where a task stands, from 0. Raises KeyError where there is no such task."""
        for number, task in enumerate(self.tasks):
            if task.id == id:
                return number
        raise KeyError(id)


@dataclass(frozen=True)
class _Drawn:
    """A task before its picture and its answer are known."""

    id: str
    instruction: str
    candidate: int
    texts: tuple[str, str]
    labeler: str


@dataclass(frozen=True)
class Wanted:
    """How many tasks of a kind are drawn; which, and in which order they stand, follows from `seed` and their ids."""

    kind: Kind
    number: int
    seed: int


def make(result: Path, wanted: Wanted, folder: Path, store: ArtifactStore) -> Tasks:
    """Draw tasks of a finished run into a new folder; those that are there already are read.

    Raises BadInput where the run has nothing of that kind, and where the folder has tasks of another.
    """
    if (folder / TASKS).exists():
        there = Tasks.read(folder)
        if there.kind != wanted.kind:
            raise BadInput(f"{folder} has {there.kind}, and {wanted.kind} were asked for; name another folder by --to")
        return there
    iteration = Iteration.read(result / "iteration.json")
    drawn, asked = (_claims if wanted.kind == "claims" else _pairs)(iteration, store, wanted)
    if not drawn:
        raise BadInput(f"{result}: the run has no {wanted.kind} to be judged; name one that was labeled and paired")
    if gone := next((one.instruction for one in drawn if one.instruction not in asked), None):
        raise BadInput(f"the instruction {gone!r} is no longer in the data set of the run; bring it back as it was")
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    tasks: list[Task] = []
    for one in drawn:
        pictures, question = asked[one.instruction]
        named = {hashlib.sha256(picture).hexdigest()[:16]: picture for picture in pictures}
        for name, picture in named.items():
            (folder / PICTURES / name).write_bytes(picture)
        tasks.append(Task(one.id, tuple(named), question, one.texts, one.labeler))
    partial = folder / f"{TASKS}.partial"
    content = {"kind": wanted.kind, "seed": wanted.seed, "tasks": [asdict(task) for task in tasks]}
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / TASKS)
    return Tasks(wanted.kind, folder, tuple(tasks))


Asked = Mapping[str, tuple[Sequence[bytes], str]]
"""Pictures and question of an instruction, by its id."""


def _claims(iteration: Iteration, store: ArtifactStore, wanted: Wanted) -> tuple[list[_Drawn], Asked]:
    """Claims that were judged, with the answers that they are in."""
    every = (
        _Drawn(f"{row['id']}/{row['candidate']}/{place}", row["id"], row["candidate"], ("", claim), "")
        for row in store.rows(_made(iteration, "splitting"), CLAIMS, ["id", "candidate", "claims"])
        for place, claim in enumerate(row["claims"])
    )
    some = _some(every, wanted)
    keys = {(one.instruction, one.candidate) for one in some}
    verdicts = store.rows(_made(iteration, "labeling"), VERDICTS, ["id", "candidate", "accepted"])
    samples = store.rows(_made(iteration, "sampling"), SAMPLES, ["id", "candidate", "answer"])
    accepted, answers = _of(verdicts, keys, "accepted"), _of(samples, keys, "answer")
    drawn: list[_Drawn] = []
    for one in some:
        key = (one.instruction, one.candidate)
        if key in accepted and key in answers:
            said = accepted[key][int(one.id.rpartition("/")[2])]
            drawn.append(replace(one, texts=(answers[key], one.texts[1]), labeler="yes" if said else "no"))
    labels = _made(iteration, "labeling")
    source = Source.model_validate(store.manifest(labels[0]).config["instructions"]) if labels else None
    instructions = store.instructions(source) if source else ()
    ids = {one.instruction for one in drawn}
    return drawn, {
        one.id: (one.images, one.question) for one in instructions if isinstance(one, Instruction) and one.id in ids
    }


def _pairs(iteration: Iteration, store: ArtifactStore, wanted: Wanted) -> tuple[list[_Drawn], Asked]:
    """Pairs as they are trained on; which of the two stands first is a matter of the seed."""

    def drawn(row: Mapping[str, Any]) -> _Drawn:
        id = f"{row['id']}/{row['chosen_candidate']}-{row['rejected_candidate']}"
        both = row["chosen"], row["rejected"]
        turned = row_seed(wanted.seed, id, candidate=-1) % 2 == 1
        texts, labeler = (both[::-1], "second") if turned else (both, "first")
        return _Drawn(id, row["id"], row["chosen_candidate"], texts, labeler)

    made = _made(iteration, "pairing")
    some = _some(map(drawn, store.pairs(made, COLUMNS)), wanted)
    ids = {one.instruction for one in some}
    asked = {row["id"]: asked_in(row) for row in store.pairs(made, ["id"]) if row["id"] in ids}
    return some, {id: (pictures, question_of(messages)) for id, (messages, pictures) in asked.items()}


def _made(iteration: Iteration, stage: str) -> tuple[Artifact, ...]:
    found = iteration.stage(stage)
    return found.artifacts if found and found.done else ()


def _some(every: Iterable[_Drawn], wanted: Wanted) -> list[_Drawn]:
    """As many as are asked for, in an order that the seed decides."""
    return heapq.nsmallest(wanted.number, every, key=lambda one: row_seed(wanted.seed, one.id, candidate=0))


def _of(rows: Iterable[Mapping[str, Any]], wanted: set[tuple[str, int]], column: str) -> dict[tuple[str, int], Any]:
    keyed = (((row["id"], row["candidate"]), row[column]) for row in rows)
    return {key: value for key, value in keyed if key in wanted}
