"""Dividing answers into claims, and claims into yes/no questions: the pure part.

The prompts are ours; what they ask for is the paper's (section 3.2): self-contained factual sentences without opinions,
and one general question for each, nothing added, negation kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

DIVIDE_PROMPT: Final = """You read a question about a picture and an answer to it.
List the facts that the answer states about the picture.

Rules:
- One fact a line, each line beginning with "- ".
- Each line is a complete sentence that can be understood without the others: repeat names instead of pronouns.
- Use the answer's own words and tense. Add nothing, and keep every negation.
- Leave out opinions, feelings, guesses and advice.
- If the answer states no fact about the picture, write only: NONE

Question: {question}
Answer: {answer}

Facts:"""

CONVERT_PROMPT: Final = """Turn each statement below into one question that can be answered by yes or no.

Rules:
- Exactly one question for each statement, in the same order, each line beginning with "- ".
- Keep the statement's tense and its negation. Add nothing and leave nothing out.

Statements:
{claims}

Questions:"""

REQUEST: Final = "Please answer yes or no."
NOTHING: Final = "NONE"
THOUGHT: Final = "</think>"
"""Ends what a model says to itself before it answers."""
_BULLET: Final = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)])\s+(?P<text>\S.*)")


class Unparsable(ValueError):
    """A model's list does not have the form that it was asked for."""


def parse_bullets(text: str) -> tuple[str, ...]:
    """The items of a bulleted or numbered list, without their marks; empty for `NONE`.

    What a model thought first is left out. Raises Unparsable for anything else: prose around the items, an item of
    several lines or without text, no item.
    """
    lines = [line.strip() for line in text.rpartition(THOUGHT)[2].split("\n") if line.strip()]
    if not lines:
        raise Unparsable("the list is empty")
    if _is_nothing(lines[0]) and len(lines) == 1:
        return ()
    items = tuple(_item(line) for line in lines)
    return () if len(items) == 1 and _is_nothing(items[0]) else items


def _item(line: str) -> str:
    found = _BULLET.fullmatch(line)
    if found is None:
        raise Unparsable(f"{line[:80]!r} is not an item of a list")
    return found["text"]


def _is_nothing(text: str) -> bool:
    return text.rstrip(".").upper() == NOTHING


def as_questions(items: Sequence[str], claims: Sequence[str]) -> tuple[str, ...]:
    """One question for each claim, each with the request for yes or no. Raises Unparsable where they do not match."""
    if len(items) != len(claims):
        raise Unparsable(f"{len(items)} questions for {len(claims)} claims")
    for item in items:
        if not item.endswith("?"):
            raise Unparsable(f"{item[:80]!r} is not a question")
    return tuple(f"{item} {REQUEST}" for item in items)


def bullets(items: Sequence[str]) -> str:
    """A list that `parse_bullets` reads, one item a line."""
    return "\n".join(f"- {item}" for item in items)


def sentences(text: str, language: str) -> tuple[str, ...]:
    """The sentences of a text, stripped; what has no letter is no sentence. `language` is its ISO 639 code."""
    from sentencex import segment

    found = (sentence.strip() for sentence in segment(language, text))
    return tuple(sentence for sentence in found if any(character.isalpha() for character in sentence))


def whole(text: str) -> tuple[str, ...]:
    """The text as its only claim; none where it is blank."""
    return (text.strip(),) if text.strip() else ()


def question_of(claim: str, template: str) -> str:
    """The template with the claim in place of `{claim}`, without the claim's final punctuation."""
    return template.replace("{claim}", claim.strip().rstrip(".!?").rstrip())
