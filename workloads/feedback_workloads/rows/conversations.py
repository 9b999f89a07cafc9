"""Conversations about pictures in Hugging Face's form: turns of texts, and of places where a picture stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from feedback_workloads.rows.rejected import BadRow

Message = Mapping[str, Any]
"""A turn: `role`, and `content` as parts `{"type": "image"}` and `{"type": "text", "text": ...}`."""

ROLES: Final = ("user", "assistant")
"""Who speaks in turn; a first message may be the `system`'s."""


def asked(question: str, pictures: int = 1) -> tuple[Message, ...]:
    """One question, behind the pictures that it is about."""
    content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": question}]
    return ({"role": "user", "content": content},)


def places(messages: Sequence[Message]) -> int:
    """How many pictures stand in the messages."""
    return sum(part["type"] == "image" for message in messages for part in message["content"])


def question_of(messages: Sequence[Message]) -> str:
    """What is asked, as a text: the question, or of several turns all that was said, each behind who says it.

    Several pictures are numbered where they stand, as `[picture 1]`, so that an answer that names one is understood.
    """
    numbers = count(1) if places(messages) > 1 else None
    said = [(str(message["role"]), _text(message, numbers)) for message in messages if message["role"] != "system"]
    return said[0][1] if len(said) == 1 else "\n".join(f"{role.capitalize()}: {text}" for role, text in said)


def _text(message: Message, numbers: count[int] | None) -> str:
    """What a turn says; its pictures are numbered by `numbers`, or left out."""
    parts = (
        part["text"] if part["type"] == "text" else f"[picture {next(numbers)}]" if numbers else ""
        for part in message["content"]
    )
    return " ".join(filter(None, parts))


def conversation(given: Sequence[object], pictures: int) -> tuple[Message, ...]:
    """The turns of the column `messages`, about so many pictures: content may be a text, or a list of parts.

    Where no turn says where the pictures stand, they stand before all that the user says first.

    Raises BadRow: `wrong-type` for what has another form, `wrong-turns` where roles do not alternate from the user to
    the user, `empty-question` where the last turn has no text and `empty-turn` where another has nothing,
    `picture-count` where the places are not as many as the pictures, and `not-utf-8`.
    """
    messages = [_message(one, number) for number, one in enumerate(given, 1)]
    _check_turns(messages)
    found = places(messages)
    if not found:
        first = next(message for message in messages if message["role"] == "user")
        first["content"][:0] = [{"type": "image"} for _ in range(pictures)]
    elif found != pictures:
        raise BadRow(
            "picture-count", f"the messages have {found} parts of type image, and the row has {pictures} pictures"
        )
    return tuple(messages)


def _message(given: object, number: int) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise BadRow("wrong-type", f"message {number} is {type(given).__name__}, not an object of role and content")
    role, content = given.get("role"), given.get("content")
    if role not in ("system", *ROLES):
        raise BadRow("wrong-type", f"message {number} has the role {role!r}; give system, user or assistant")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadRow("wrong-type", f"the content of message {number} is {type(content).__name__}, not text or a list")
    parts = [_part(one, number) for one in content]
    if role != "user" and any(part["type"] == "image" for part in parts):
        raise BadRow("wrong-type", f"message {number} has a picture, and is the {role}'s; only the user shows some")
    return {"role": role, "content": [part for part in parts if part["type"] == "image" or part["text"].strip()]}


def _part(given: object, number: int) -> dict[str, str]:
    kind = given.get("type") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or kind not in ("text", "image"):
        raise BadRow("wrong-type", f"message {number} has a part of type {kind!r}; give text or image")
    if kind == "image":
        return {"type": "image"}
    text = given.get("text")
    if not isinstance(text, str):
        raise BadRow("wrong-type", f"the text of message {number} is {type(text).__name__}")
    try:
        text.encode()  # JSON can spell lone surrogates
    except UnicodeError as error:
        raise BadRow("not-utf-8", f"message {number} is not UTF-8: {error}") from error
    return {"type": "text", "text": text}


def _check_turns(messages: Sequence[Message]) -> None:
    start = 1 if messages and messages[0]["role"] == "system" else 0
    for number, message in enumerate(messages[start:]):
        expected = ROLES[number % 2]
        if message["role"] != expected:
            raise BadRow(
                "wrong-turns",
                f"message {start + number + 1} is the {message['role']}'s, where the {expected}'s is due: user and "
                "assistant speak in turn, and a system prompt comes first",
            )
        if not message["content"]:
            raise BadRow(
                "empty-question" if number == len(messages) - start - 1 else "empty-turn",
                f"message {start + number + 1} says nothing",
            )
    if not messages[start:] or messages[-1]["role"] != "user":
        raise BadRow("wrong-turns", "the last message is not the user's; leave out the answer that was given to it")
    if all(part["type"] == "image" for part in messages[-1]["content"]):
        raise BadRow("empty-question", "the last message has no text")
