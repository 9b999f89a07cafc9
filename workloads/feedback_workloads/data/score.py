"""Rewards of the answers in a table, asked of a best-of-N server: the table comes out with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.apis.asking import Asking, Request
from feedback_workloads.apis.client import Client, Names, Refused, Reply
from feedback_workloads.apis.kept import RepliesFile
from feedback_workloads.apis.ledger import Ledger
from feedback_workloads.contract import COMMON_KEY_VARIABLE, BadInput
from feedback_workloads.models.pictures import data_url
from feedback_workloads.rows.instruction_files import BATCH_ROWS, RawRow
from feedback_workloads.rows.rejected import BadRow

NEEDED: Final = ("image", "question", "answer")
MADE: Final = pa.schema(
    [
        pa.field("reward", pa.float64()),
        pa.field("logp", pa.float64()),
        pa.field("ref_logp", pa.float64()),
        pa.field("tokens", pa.int64()),
        pa.field("not_scored", pa.string()),
    ]
)
"""What is added to a row: the answer's reward, its summed log-probabilities under policy and reference, over how many
tokens; or why it has none."""
NAMES: Final = Names(api="the server", address="--api", model="--model", key=COMMON_KEY_VARIABLE)

Row = dict[str, Any]


class Table(Protocol):
    """A file of rows, a few in memory at a time."""

    def batches(self) -> Iterator[Sequence[Row]]:
        """The rows. Raises BadInput where a column of NEEDED is not there, or one of MADE is."""
        ...

    def write(self, to: Path, scored: Iterator[Sequence[Row]]) -> None:
        """Write another file of the kind, with the columns of MADE beside those that it has."""
        ...


@dataclass(frozen=True)
class ParquetTable:
    """Rows of Parquet; their types stay."""

    file: Path

    def batches(self) -> Iterator[Sequence[Row]]:
        try:
            with pq.ParquetFile(self.file) as table:
                check_columns(self.file, table.schema_arrow.names)
                for batch in table.iter_batches(batch_size=BATCH_ROWS):
                    yield batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            why = " ".join(str(error).split())
            raise BadInput(f"{self.file} is not a readable parquet file ({why}); give one that is") from error

    def write(self, to: Path, scored: Iterator[Sequence[Row]]) -> None:
        schema = pq.read_schema(self.file)
        for field in MADE:
            schema = schema.append(field)
        with pq.ParquetWriter(to, schema) as writer:
            for rows in scored:
                writer.write_table(pa.Table.from_pylist(list(rows), schema))


@dataclass(frozen=True)
class LinesTable:
    """A JSON object a line; fields stay as they are."""

    file: Path

    def batches(self) -> Iterator[Sequence[Row]]:
        with self.file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise BadInput(f"{self.file}, line {number} is not JSON ({error}); mend it") from error
                if not isinstance(row, dict):
                    raise BadInput(f"{self.file}, line {number} is not a JSON object; give one a line")
                check_columns(f"{self.file}, line {number}", list(row))
                yield [row]

    def write(self, to: Path, scored: Iterator[Sequence[Row]]) -> None:
        with to.open("w", encoding="utf-8") as stream:
            for rows in scored:
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def check_columns(what: object, found: Sequence[str]) -> None:
    """Raise BadInput where a column is missing, or would be written twice."""
    if missing := next((name for name in NEEDED if name not in found), None):
        raise BadInput(
            f"{what} has no column {missing!r} (its columns are {', '.join(found)}); rename the one that holds it"
        )
    if twice := next((name for name in MADE.names if name in found), None):
        raise BadInput(f"{what} has a column {twice!r} already; rename it, since the reward of each row goes beside it")


def table_of(file: Path) -> Table:
    """The file as a table, by what its name ends in. Raises BadInput for other names."""
    if not file.is_file():
        raise BadInput(f"there is no file {file}; check its path")
    match file.suffix:
        case ".parquet":
            return ParquetTable(file)
        case ".jsonl":
            return LinesTable(file)
    raise BadInput(f"{file} is neither *.parquet nor *.jsonl; convert it, or give it the name that it should have")


def score(file: Path, out: Path, *, api: str, model: str, concurrency: int = 8) -> dict[str, int]:
    """Write the table `file` to `out` with the rewards of its answers; return how many rows were scored, and not.

    Replies are kept in `<out>.replies.jsonl` as they come, so that a command that was interrupted asks for the rest
    alone; once `out` is written the file is removed. Raises BadInput and Temporary as `Asking.replies`.
    """
    table = table_of(file)
    if out.exists():
        raise BadInput(f"{out} is there already; name another file by --out, or remove it")
    if out.suffix != file.suffix:
        raise BadInput(f"--out {out} is another kind of file than {file}; let it end in {file.suffix}")
    kept = RepliesFile(out.with_name(f"{out.name}.replies.jsonl"))
    out.parent.mkdir(parents=True, exist_ok=True)
    found, counts = kept.read(), {"scored": 0, "not_scored": 0}
    with Client(api, model, os.environ.get(COMMON_KEY_VARIABLE), NAMES, call="/score") as client:
        asking = Asking(client, kept, Ledger(), at_once=concurrency)
        requests = (
            (request.key(model), request)
            for rows in table.batches()
            for row in rows
            if not isinstance(request := request_of(row, file.parent), BadRow)
        )
        todo = ((key, request) for key, request in requests if key not in found)
        refused: dict[str, str] = {}
        for key, reply in asking.replies(todo, _scored):
            if isinstance(reply, Refused):
                refused[key] = str(reply)
            else:
                found[key] = reply
    written = out.with_name(f".{out.name}.part")
    made = partial(_made, folder=file.parent, model=model, found=found, refused=refused, counts=counts)
    table.write(written, ([{**row, **made(row)} for row in rows] for rows in table.batches()))
    written.rename(out)
    kept.remove()
    return counts


def request_of(row: Row, folder: Path) -> Request | BadRow:
    """What the server is asked about a row, whose picture may be a file below `folder`."""
    raw = RawRow("", folder, row, partial(row.get, "image"))
    try:
        answer = raw.text("answer")
        if not answer:
            raise BadRow("empty-answer", "the answer is empty")
        picture = {"type": "image_url", "image_url": {"url": data_url(raw.picture())}}
        asked = {"role": "user", "content": [picture, {"type": "text", "text": raw.question()}]}
    except BadRow as bad:
        return bad
    return Request((asked,), {"documents": [answer]})


def _made(
    row: Row,
    *,
    folder: Path,
    model: str,
    found: Mapping[str, Reply],
    refused: Mapping[str, str],
    counts: dict[str, int],
) -> Row:
    """The columns of MADE of a row."""
    request = request_of(row, folder)
    key = "" if isinstance(request, BadRow) else request.key(model)
    if reply := found.get(key):
        counts["scored"] += 1
        one = reply["data"][0]
        weight = {name: one[name] for name in ("logp", "ref_logp", "tokens")}
        return {"reward": one["score"], **weight, "not_scored": None}
    counts["not_scored"] += 1
    why = str(request) if isinstance(request, BadRow) else refused[key]
    return {**dict.fromkeys(MADE.names), "not_scored": why}


def _scored(reply: Reply) -> bool:
    """Whether the reply is that of a server of ours; other servers score something else."""
    match reply:
        case {"data": [{"score": float() | int(), "logp": _, "ref_logp": _, "tokens": int()}]}:
            return True
    return False
