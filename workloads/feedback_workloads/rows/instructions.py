"""Instructions: pictures and questions, streamed from a folder of files that may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feedback_workloads.rows.conversations import Message, asked, question_of
from feedback_workloads.rows.identity import shard_of
from feedback_workloads.rows.instruction_files import raw_rows
from feedback_workloads.rows.rejected import BadRow, Rejected


@dataclass(frozen=True)
class Instruction:
    """What is asked about pictures. `images` are encoded files (JPEG, PNG, ...), not yet decoded.

    `messages` are one turn or several, in which the pictures stand in their order; the user speaks last.
    """

    id: str
    images: tuple[bytes, ...]
    messages: tuple[Message, ...]
    truth: str | None = None
    split: str | None = None

    @classmethod
    def plain(
        cls, id: str, image: bytes, question: str, truth: str | None = None, split: str | None = None
    ) -> Instruction:
        """One question about one picture."""
        return cls(id, (image,), asked(question), truth, split)

    @property
    def question(self) -> str:
        """What is asked, as a text; see `question_of`."""
        return question_of(self.messages)


def read_instructions(folder: Path, uri: str, shard: int = 0, shards: int = 1) -> Iterator[Instruction | Rejected]:
    """Stream the instructions in `folder` that belong to shard `shard` of `shards`, in the order of the files.

    `uri` is the folder's name for people. It holds parquet files (columns `id`, `image` as a Hugging Face Image,
    `question`, and optionally `truth`, `split`), JSON lines (the same, in any row that has them), or CSV or TSV. A
    picture may also be its bytes, base64, or the path of a file, which is looked up from the folder of the file that
    names it. The names of the RLAIF-V reference, `ds_question_id` and `image_path`, are understood too. Where there is
    no `image`, a list of them may be in `images`, and where there is no `question`, turns in `messages`: see
    `conversation`, for whose reasons rows are rejected, too.

    Rows that cannot be used come as Rejected, for one of the reasons missing-id, duplicate-id (the second and later;
    an id is taken even if the row that has it is rejected), empty-question, missing-picture, picture-too-large,
    undecodable-picture, wrong-type, wrong-fields, not-utf-8, not-json. Every row comes in exactly one shard, as either.
    Raises BadInput where there is nothing to read or a column is wrong, naming file and column.
    """
    seen: set[str] = set()
    for row in raw_rows(folder, uri):
        try:
            id = row.id()
        except BadRow as bad:
            if shard_of(row.place, shards) == shard:
                yield Rejected(row.place, None, bad.reason, bad.detail)
            continue
        if shard_of(id, shards) != shard:
            continue
        if id in seen:
            yield Rejected(row.place, None, "duplicate-id", f"the id {id!r} is taken by an earlier row")
            continue
        seen.add(id)
        try:
            images = row.pictures()
            yield Instruction(id, images, row.messages(len(images)), row.text("truth"), row.text("split"))
        except BadRow as bad:
            yield Rejected(id, None, bad.reason, bad.detail)
