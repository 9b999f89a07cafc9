"""Files of instructions as they come: parquet, JSON lines, CSV or TSV, of which any row may be damaged."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.conversations import Message, asked, conversation
from feedback_workloads.rows.picture_texts import PICTURE_LIMIT_BYTES, picture_in
from feedback_workloads.rows.rejected import BadRow

BATCH_ROWS = 32
"""Rows that are in memory at once, pictures included."""
FIELD_LIMIT_BYTES = 2 * PICTURE_LIMIT_BYTES
"""Longest field of a CSV file, which may be a picture in base64."""
SHOWN_CHARACTERS = 100
"""As much of a path as a message shows."""
COLUMN_NAMES = {
    "id": ("id", "ds_question_id"),
    "image": ("image", "image_path", "images"),
    "question": ("question", "messages"),
    "truth": ("truth",),
    "split": ("split",),
}
"""What a column may be called, the first name that a parquet file, or a JSON line, has being used."""
OPTIONAL_COLUMNS = {"truth", "split"}
LISTS = ("images", "messages")
"""Columns of several pictures, and of several turns, which take the place of `image` and of `question`."""


@dataclass(frozen=True)
class RawRow:
    """A row as its file has it. Its methods check what they return, and raise BadRow.

    `place` is the file and the number of the row. Text from parquet is still bytes, since nothing says that it is valid
    UTF-8; turns that are none are a BadRow. `image` gives what stands for the picture, or a list for several. `damage`
    is set where not even columns could be told apart.
    """

    place: str
    folder: Path
    values: Mapping[str, object]
    image: Callable[[], object]
    damage: BadRow | None = None

    def id(self) -> str:
        """Return the id, an integer one as a string."""
        if self.damage is not None:
            raise self.damage
        value = self.values.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        id = self.text("id")
        if id is None or not id.strip():
            raise BadRow("missing-id", "the row has no id")
        return id

    def question(self) -> str:
        question = self.text("question")
        if question is None or not question.strip():
            raise BadRow("empty-question", "the question is empty")
        return question

    def messages(self, pictures: int) -> tuple[Message, ...]:
        """Return what is asked about so many pictures: the turns, or one question behind all pictures."""
        match self.values.get("question"):
            case BadRow() as damage:
                raise damage
            case list(turns):
                return conversation(turns, pictures)
        return asked(self.question(), pictures)

    def text(self, column: str) -> str | None:
        """Return the text of a column, None where it is null or not there."""
        value = self.values.get(column)
        try:
            match value:
                case bytes():
                    return value.decode()
                case str():
                    value.encode()  # JSON can spell lone surrogates
                    return value
                case None:
                    return None
        except UnicodeError as error:
            raise BadRow("not-utf-8", f"the {column} is not UTF-8: {error}") from error
        raise BadRow("wrong-type", f"the {column} is {type(value).__name__}, not text")

    def pictures(self) -> tuple[bytes, ...]:
        """Return the encoded pictures, of which there is at least one; see `picture`."""
        value = self._image()
        given = value if isinstance(value, list) else [value]
        if not given:
            raise BadRow("missing-picture", "the row has no picture")
        return tuple(map(self._picture, given))

    def picture(self) -> bytes:
        """Return the encoded picture: the row's own bytes, those that its text spells, or the file that it names."""
        return self._picture(self._image())

    def _image(self) -> object:
        try:
            return self.image()
        except UnicodeDecodeError as error:
            raise BadRow("not-utf-8", f"the path of the picture is not UTF-8: {error}") from error

    def _picture(self, value: object) -> bytes:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value:
            raise BadRow("missing-picture", "the row has neither a picture nor the path of one")
        return picture_in(value) or _picture_file(self.folder, value)


@dataclass(frozen=True)
class Survey:
    """What a data set of instructions has: whether any row has lists of pictures or turns, and the most pictures."""

    conversations: bool = False
    most_pictures: int = 1

    def __or__(self, other: Survey) -> Survey:
        return Survey(self.conversations or other.conversations, max(self.most_pictures, other.most_pictures))


def survey(folder: Path, uri: str) -> Survey:
    """Look through all files that `raw_rows` would read, without reading a picture. Raises BadInput as it does.

    A file that cannot be read has nothing; what is wrong with it is said where its rows are read.
    """
    files, read = _data_files(folder, uri)
    if read == _csv_rows:  # which have no lists
        return Survey()
    return reduce(or_, map(parquet_survey if read == _parquet_rows else _json_survey, files), Survey())


def parquet_survey(file: Path) -> Survey:
    """What one file has; one that cannot be read has nothing."""
    try:
        with pq.ParquetFile(file) as table:
            columns = _columns(table.schema_arrow.names)
            most = 1
            if columns.get("image") in LISTS:
                for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=[columns["image"]]):
                    most = max(most, pc.max(pc.list_value_length(batch[0])).as_py() or 0)
    except (pa.ArrowException, OSError):
        return Survey()
    return Survey(not set(LISTS).isdisjoint(columns.values()), most)


def _json_survey(file: Path) -> Survey:
    found = Survey()
    for _, row in _json_lines(file):
        if not isinstance(row, BadRow):
            columns = _columns_of_line(row)
            images, turns = (row.get(columns.get(column, "")) for column in ("image", "question"))
            most = len(images) if isinstance(images, list) else 1
            found |= Survey(isinstance(images, list) or isinstance(turns, list), most)
    return found


def raw_rows(folder: Path, uri: str) -> Iterator[RawRow]:
    """Stream the rows of all files of one kind below `folder`, in the order of their names.

    The kind is parquet or JSON lines; where there is neither, CSV or TSV. Files and folders whose names begin with `.`
    or `_` are no data, by the convention of Hive and of Spark, and neither are files without a byte.

    Raises BadInput, naming the file below `uri` and the column, where there is nothing to read or a column is wrong.
    """
    files, read = _data_files(folder, uri)
    for file in files:
        yield from read(file, file.relative_to(folder).as_posix(), uri)


Reader = Callable[[Path, str, str], Iterator[RawRow]]


def _data_files(folder: Path, uri: str) -> tuple[list[Path], Reader]:
    """The files of the one kind that is there, and what reads it."""
    tables, lines, values = (
        _files(folder, *patterns) for patterns in (("*.parquet",), ("*.jsonl",), ("*.csv", "*.tsv"))
    )
    if tables and lines:
        raise BadInput(
            f"{uri} has both parquet and JSON lines ({tables[0].name}, {lines[0].name}); name a folder with one kind"
        )
    if not tables and not lines and not values:
        raise BadInput(f"{uri} has no *.parquet, *.jsonl, *.csv or *.tsv file to read instructions from; check the URI")
    return tables or lines or values, _parquet_rows if tables else _json_rows if lines else _csv_rows


def _files(folder: Path, *patterns: str) -> list[Path]:
    """The files of those names that may be data, ordered by their paths."""
    found = (file for pattern in patterns for file in folder.rglob(pattern))
    return sorted(file for file in found if _may_be_data(file, folder))


def _may_be_data(file: Path, folder: Path) -> bool:
    named = not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return named and file.is_file() and file.stat().st_size > 0


def _parquet_rows(file: Path, name: str, uri: str) -> Iterator[RawRow]:
    try:
        with pq.ParquetFile(file) as table:
            columns = _columns(table.schema_arrow.names)
            _check_complete(columns, table.schema_arrow.names, f"{uri}/{name}")
            for column, found in columns.items():
                _check_type(column, table.schema_arrow.field(found), f"{uri}/{name}")
            number = 0
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=list(columns.values())):
                others = {column: _values(batch[columns[column]]) for column in columns if column != "image"}
                images = batch[columns["image"]]
                for index in range(batch.num_rows):
                    number += 1
                    values = {column: value(index) for column, value in others.items()}
                    yield RawRow(f"{name}:{number}", file.parent, values, images[index].as_py)
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise BadInput(f"{uri}/{name} is not a readable parquet file ({why}); give one that is") from error


def _json_rows(file: Path, name: str, uri: str) -> Iterator[RawRow]:
    """Rows of which each has its own columns: what one lacks, the others may have."""
    _check_lines(file, f"{uri}/{name}")
    for number, row in _json_lines(file):
        place = f"{name}:{number}"
        if isinstance(row, BadRow):
            yield RawRow(place, file.parent, {}, lambda: None, row)
            continue
        values = {column: row[found] for column, found in _columns_of_line(row).items()}
        yield RawRow(place, file.parent, values, partial(values.get, "image"))


def _csv_rows(file: Path, name: str, uri: str) -> Iterator[RawRow]:
    """Rows below a line of names. TSV is read alike: a field in quotes may hold line breaks and separators."""
    csv.field_size_limit(FIELD_LIMIT_BYTES)
    # What is not UTF-8 becomes lone surrogates, which spoil their own row alone.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        records = csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
        header = next(records, [])
        columns = _columns([column for column in header if column not in LISTS])
        _check_complete(columns, header, f"{uri}/{name}", lists=False)
        number = 1
        while True:
            number += 1
            place = f"{name}:{number}"
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                damage = BadRow("wrong-fields", f"the row cannot be told apart into fields: {error}")
                yield RawRow(place, file.parent, {}, lambda: None, damage)
                continue
            if not record:
                continue
            if len(record) != len(header):
                damage = BadRow("wrong-fields", f"the row has {len(record)} fields, the first line {len(header)}")
                yield RawRow(place, file.parent, {}, lambda: None, damage)
                continue
            found = dict(zip(header, record, strict=True))
            # An empty field is one that is not there.
            values = {column: found[given] or None for column, given in columns.items()}
            yield RawRow(place, file.parent, values, partial(values.get, "image"))


def _check_lines(file: Path, name: str) -> None:
    """Raise BadInput where a column is in none of the lines. Reads on only until all were seen."""
    columns: dict[str, str] = {}
    first: Mapping[str, object] | None = None
    for _, row in _json_lines(file):
        if isinstance(row, BadRow):
            continue
        first = first or row
        columns |= _columns(row)
        if not _missing(columns):
            return
    if first is not None:
        _check_complete(columns, first, name)


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, object] | BadRow]]:
    """Number and content of each line that is not blank."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row: dict[str, object] | BadRow = _json_object(line)
            except BadRow as damage:
                row = damage
            yield number, row


def _json_object(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRow("not-utf-8", f"byte {error.start} of the line is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadRow("not-json", f"the line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow("not-json", "the line is not a JSON object")
    return row


def _columns(found: Container[str]) -> dict[str, str]:
    """Return which of the columns that were found holds what."""
    present = {column: [name for name in names if name in found] for column, names in COLUMN_NAMES.items()}
    return {column: names[0] for column, names in present.items() if names}


def _columns_of_line(row: Mapping[str, object]) -> dict[str, str]:
    """As `_columns`; a list takes the place of what is null."""
    columns = _columns(row)
    for column, listed in zip(("image", "question"), LISTS, strict=True):
        if row.get(columns.get(column, "")) is None and row.get(listed) is not None:
            columns[column] = listed
    return columns


def _missing(columns: Container[str]) -> list[str]:
    """The columns that a file must have and `columns` lacks."""
    return [column for column in COLUMN_NAMES if column not in columns and column not in OPTIONAL_COLUMNS]


def _check_complete(columns: Container[str], found: Collection[str], file: str, *, lists: bool = True) -> None:
    """Raise BadInput where `columns` lacks one; `found` are those that are there, `lists` whether they can be LISTS."""
    if missing := _missing(columns):
        names = " or ".join(repr(name) for name in COLUMN_NAMES[missing[0]] if lists or name not in LISTS)
        if not lists and (listed := next((name for name in COLUMN_NAMES[missing[0]] if name in found), None)):
            raise BadInput(f"{file} cannot hold the lists of a column {listed!r}; give JSON lines or parquet")
        raise BadInput(
            f"{file} has no column {names} (its columns are {', '.join(found)}); rename the one that holds it"
        )


def _check_type(column: str, field: pa.Field, file: str) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    match column:
        case "id":
            fits, expected = _is_text(kind) or pa.types.is_integer(kind), "a string or an integer"
        case "image" if field.name in LISTS:
            fits, expected = is_list(kind) and _is_picture(kind.value_type), f"a list of {A_PICTURE}"
        case "image":
            fits, expected = _is_picture(kind), A_PICTURE
        case "question" if field.name in LISTS:
            fits, expected = (
                is_list(kind) and _has(kind.value_type, "role", "content"),
                "a list of struct<role, content>",
            )
        case _:
            fits, expected = _is_text(kind), "a string"
    if not fits:
        raise BadInput(f"the column {field.name!r} of {file} has type {field.type}, not {expected}; convert it")


A_PICTURE = "struct<bytes, path> (a Hugging Face Image), a picture's bytes, or text: a path or base64"


def _is_text(kind: pa.DataType) -> bool:
    return kind in {pa.string(), pa.large_string(), pa.string_view(), pa.null()}


def _is_picture(kind: pa.DataType) -> bool:
    encoded = kind in {pa.binary(), pa.large_binary(), pa.binary_view()}
    return _has(kind, "bytes", "path") or encoded or _is_text(kind)


def _has(kind: pa.DataType, *names: str) -> bool:
    """Whether values of a type have fields of those names."""
    return bool(pa.types.is_struct(kind)) and set(names) <= {child.name for child in kind.fields}


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _values(column: pa.Array) -> Callable[[int], object]:
    """What gives the value of a row: bytes of text, turns as they are, or what spoils them."""
    if not is_list(column.type):
        encoded = _encoded(column)
        return lambda index: encoded[index].as_py()

    def turns(index: int) -> object:
        try:
            return column[index].as_py()
        except UnicodeDecodeError as error:
            return BadRow("not-utf-8", f"the messages are not UTF-8: {error}")

    return turns


def _encoded(column: pa.Array) -> pa.Array:
    """Return text as bytes, so that a value that is not UTF-8 spoils its own row alone."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_integer(column.type) else column.cast(pa.large_binary())


def _picture_file(folder: Path, name: str) -> bytes:
    path, shown = PurePosixPath(name), name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}..."
    if path.is_absolute() or ".." in path.parts:
        raise BadRow("missing-picture", f"the path {shown} leads out of the folder of the data")
    try:
        size = (folder / path).stat().st_size
        if size > PICTURE_LIMIT_BYTES:
            raise BadRow("picture-too-large", f"the file {shown} has {size} bytes, more than {PICTURE_LIMIT_BYTES}")
        data = (folder / path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the name
        # Without the local path: the same words on every host.
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRow("missing-picture", f"the file {shown!r} cannot be read: {why}") from error
    if not data:
        raise BadRow("missing-picture", f"the file {shown} is empty")
    return data
