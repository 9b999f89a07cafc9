"""Rows of several pictures and turns: what is read, what is refused, and what a person or a splitter reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.conversations import Message, asked, conversation, places, question_of
from feedback_workloads.rows.instruction_files import Survey, survey
from feedback_workloads.rows.instructions import Instruction, read_instructions
from feedback_workloads.rows.pair_files import asked_columns, asked_in
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import IMAGE, MESSAGES, PAIRS, PAIRS_OF_CONVERSATIONS

IMAGE_PART = {"type": "image"}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in parts]}


def says(said: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(said)]}


TWO_TURNS = (user(IMAGE_PART, "What is it?"), says("A dog."), user(IMAGE_PART, "And here?"))
SYSTEM = {"role": "system", "content": [text("Be brief.")]}


@pytest.mark.parametrize(
    ("given", "pictures", "expect"),
    [
        pytest.param([{"role": "user", "content": "What?"}], 1, asked("What?"), id="text, its picture before it"),
        pytest.param([{"role": "user", "content": "What?"}], 2, asked("What?", 2), id="two pictures before it"),
        pytest.param([user("Is ", IMAGE_PART, " in ", IMAGE_PART, "?")], 2,
                     (user("Is ", IMAGE_PART, " in ", IMAGE_PART, "?"),), id="where they stand"),
        pytest.param(list(TWO_TURNS), 2, TWO_TURNS, id="turns"),
        pytest.param([SYSTEM, *TWO_TURNS], 2, (SYSTEM, *TWO_TURNS), id="a system prompt"),
        pytest.param([{"role": "user", "content": "Who?"}, says("A."), user("Where?")], 1,
                     (user(IMAGE_PART, "Who?"), says("A."), user("Where?")), id="no place: before the first turn"),
        pytest.param([user({**IMAGE_PART, "text": None}, "What?")], 1, asked("What?"), id="as parquet has it"),
    ],
)  # fmt: skip
def test_turns(given: list[Any], pictures: int, expect: tuple[Message, ...]) -> None:
    found = conversation(given, pictures)
    assert found == expect
    assert places(found) == pictures


@pytest.mark.parametrize(
    ("given", "pictures", "reason", "detail"),
    [
        pytest.param([user(IMAGE_PART, "?")], 2, "picture-count", "1 parts of type image, and the row has 2", id="few"),
        pytest.param([user(IMAGE_PART, IMAGE_PART, "?")], 1, "picture-count", "2 parts of type image", id="many"),
        pytest.param([], 1, "wrong-turns", "the last message is not the user's", id="none"),
        pytest.param([*TWO_TURNS, says("A cat.")], 2, "wrong-turns", "leave out the answer", id="answered"),
        pytest.param([user("a"), user("b")], 1, "wrong-turns", "message 2 is the user's", id="twice the user"),
        pytest.param([says("a"), user("b")], 1, "wrong-turns", "message 1 is the assistant's", id="begins"),
        pytest.param([user("a"), SYSTEM, user("b")], 1, "wrong-turns", "message 2 is the system's", id="late system"),
        pytest.param([SYSTEM], 1, "wrong-turns", "the last message", id="system alone"),
        pytest.param([user(IMAGE_PART)], 1, "empty-question", "no text", id="a picture alone"),
        pytest.param([user("  ")], 1, "empty-question", "message 1 says nothing", id="blank"),
        pytest.param([user("a"), says(" "), user("b")], 1, "empty-turn", "message 2 says nothing", id="blank answer"),
        pytest.param(["What?"], 1, "wrong-type", "message 1 is str", id="no object"),
        pytest.param([{"role": "bot", "content": "a"}], 1, "wrong-type", "the role 'bot'", id="role"),
        pytest.param([{"role": "user"}], 1, "wrong-type", "the content of message 1 is NoneType", id="no content"),
        pytest.param([{"role": "user", "content": [{"type": "video"}]}], 1, "wrong-type", "'video'", id="video"),
        pytest.param([{"role": "user", "content": [{"type": "text"}]}], 1, "wrong-type", "NoneType", id="no text"),
        pytest.param([user("a"), {"role": "assistant", "content": [IMAGE_PART]}, user("b")], 1, "wrong-type",
                     "only the user shows some", id="a picture of the assistant's"),
        pytest.param([user("\ud800")], 1, "not-utf-8", "message 1", id="a lone surrogate"),
    ],
)  # fmt: skip
def test_what_are_no_turns(given: list[Any], pictures: int, reason: str, detail: str) -> None:
    with pytest.raises(BadRow) as refused:
        conversation(given, pictures)
    assert (refused.value.reason, detail in refused.value.detail) == (reason, True), refused.value


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | st.sampled_from(["user", "assistant", "text", "image"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4), st.integers(1, 3))
def test_whatever_is_given_becomes_turns_or_is_refused(given: list[Any], pictures: int) -> None:
    try:
        found = conversation(given, pictures)
    except BadRow:
        return
    assert places(found) == pictures
    assert conversation(list(found), pictures) == found
    assert question_of(found).strip()


@pytest.mark.parametrize(
    ("messages", "expect"),
    [
        pytest.param(asked("What?"), "What?", id="one question about one picture is itself"),
        pytest.param(asked("What?", 2), "[picture 1] [picture 2] What?", id="pictures are numbered"),
        pytest.param((user("Is ", IMAGE_PART, " as ", IMAGE_PART),), "Is  [picture 1]  as  [picture 2]", id="within"),
        pytest.param(
            (SYSTEM, *TWO_TURNS),
            "User: [picture 1] What is it?\nAssistant: A dog.\nUser: [picture 2] And here?",
            id="turns",
        ),
        pytest.param(
            (user(IMAGE_PART, "Who?"), says("A."), user("Where?")), "User: Who?\nAssistant: A.\nUser: Where?", id="one"
        ),
    ],
)
def test_the_question_as_a_text(messages: tuple[Message, ...], expect: str) -> None:
    assert question_of(messages) == expect


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(folder: Path) -> list[Instruction | Rejected]:
    return list(read_instructions(folder, str(folder)))


def lines(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_json_lines_of_both_forms(tmp_path: Path) -> None:
    """A row with `image` and `question` is what it was, whatever else it has."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    plain = {"id": "1", "image": "a.png", "question": "What?"}
    lines(tmp_path, plain, {**plain, "id": "2", "images": ["a.png", "b.png"], "messages": [user("Never read.")]})
    assert read(tmp_path) == [Instruction.plain("1", b"a", "What?"), Instruction.plain("2", b"a", "What?")]
    assert survey(tmp_path, "x") == Survey()

    lines(
        tmp_path,
        plain,
        {"id": "2", "images": ["a.png", "b.png"], "messages": list(TWO_TURNS), "truth": "a cat", "split": "report"},
        {"id": "3", "images": ["a.png", "b.png", "a.png"], "question": "Which?"},
        {"id": "4", "image": "a.png", "messages": [{"role": "user", "content": "What?"}]},
        {"id": "null", "image": None, "images": ["a.png", "b.png"], "question": None, "messages": list(TWO_TURNS)},
        {"id": "5", "images": [], "question": "What?"},
        {"id": "6", "images": ["a.png"], "messages": list(TWO_TURNS)},
    )
    first, second, third, fourth, null, *rejected = read(tmp_path)
    assert first == Instruction.plain("1", b"a", "What?")
    assert second == Instruction("2", (b"a", b"b"), TWO_TURNS, "a cat", "report")
    assert third == Instruction("3", (b"a", b"b", b"a"), asked("Which?", 3))
    assert fourth == Instruction.plain("4", b"a", "What?")
    assert null == Instruction("null", (b"a", b"b"), TWO_TURNS)
    assert [(row.id, row.reason) for row in rejected if isinstance(row, Rejected)] == [
        ("5", "missing-picture"),
        ("6", "picture-count"),
    ]
    assert survey(tmp_path, "x") == Survey(conversations=True, most_pictures=3)


@pytest.mark.parametrize("column", ["image", "images"])
def test_a_list_of_pictures_is_never_taken_for_one(tmp_path: Path, column: str) -> None:
    """Else pairs would be written as if there were one."""
    (tmp_path / "a.png").write_bytes(b"a")
    lines(tmp_path, {"id": "1", column: ["a.png", "a.png"], "question": "What?"})
    assert read(tmp_path) == [Instruction("1", (b"a", b"a"), asked("What?", 2))]
    assert survey(tmp_path, "x") == Survey(conversations=True, most_pictures=2)


STRINGS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""Turns as TRL's data sets have them."""


@pytest.mark.parametrize("kind", [MESSAGES, pa.large_list(MESSAGES.value_type)], ids=["list", "large list"])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    schema = pa.schema([("id", pa.string()), ("images", pa.list_(IMAGE)), ("messages", kind)])
    row = {"id": "a", "images": [{"bytes": b"1"}, {"bytes": b"2"}], "messages": list(TWO_TURNS)}
    pq.write_table(pa.Table.from_pylist([row, {**row, "id": "b", "messages": None}], schema), tmp_path / "x.parquet")
    found, rejected = read(tmp_path)
    assert found == Instruction("a", (b"1", b"2"), TWO_TURNS)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "empty-question"
    assert survey(tmp_path, "x") == Survey(conversations=True, most_pictures=2)


def test_parquet_with_turns_of_text(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "?"},
    ]
    schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("messages", STRINGS)])
    row = {"id": "a", "image": b"1", "messages": turns}
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "x.parquet")
    assert read(tmp_path) == [Instruction("a", (b"1",), (user(IMAGE_PART, "Who?"), says("A."), user("?")))]


def test_parquet_that_is_not_utf_8_spoils_its_own_row(tmp_path: Path) -> None:
    binary = pa.list_(pa.struct([("role", pa.binary()), ("content", pa.binary())]))
    turns = pa.array([[{"role": b"user", "content": said}] for said in (b"\xff", b"What?")], binary)
    offsets, roles, contents = turns.offsets, *(turns.values.field(name).view(pa.string()) for name in (0, 1))
    spoiled = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([roles, contents], ["role", "content"]))
    table = {"id": ["a", "b"], "image": [b"1", b"2"], "messages": spoiled}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    rejected, found = read(tmp_path)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "not-utf-8"
    assert found == Instruction.plain("b", b"2", "What?")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            {"images": ["a.png"], "question": ["?"]}, "'images' .* has type string, not a list of", id="images"
        ),
        pytest.param(
            {"image": [b"1"], "messages": ["?"]}, r"'messages' .* not a list of struct<role, content>", id="turns"
        ),
    ],
)
def test_columns_of_another_type(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    pq.write_table(pa.table({"id": ["a"], **columns}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match=message):
        read(tmp_path)


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pairs_keep_what_is_asked() -> None:
    """Both forms say the same again, and the plain one has the columns that it always had."""
    plain = asked_columns(PAIRS, asked("What?"), [b"1"])
    assert plain == {"image": {"bytes": b"1", "path": None}, "question": "What?"}
    assert asked_in(plain) == (asked("What?"), (b"1",))
    for messages, images in (((SYSTEM, *TWO_TURNS), (b"1", b"2")), (asked("What?"), (b"1",))):
        columns = asked_columns(PAIRS_OF_CONVERSATIONS, messages, images)
        fields = pa.schema([PAIRS_OF_CONVERSATIONS.field(name) for name in ("images", "messages")])
        (stored,) = pa.Table.from_pylist([columns], fields).to_pylist()
        assert asked_in(stored) == (messages, images)
