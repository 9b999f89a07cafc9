"""The dialogue with a model that divides answers: what is asked again, and what is given up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from feedback_workloads.contract import Decoding, LLMSplitter, Source
from feedback_workloads.engine import Draw, Prompt, Sampled
from feedback_workloads.method.splitting import REQUEST
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.stages.splitting import LLMDivider, ModelWriter, Sample

CUT = "<cut>"
THOUGHT = "<thought>"
TOO_LONG = "a very long story"
FACTS = "- A cat sits.\n- It is red."
QUESTIONS = "- Does a cat sit?\n- Is it red?"


@dataclass
class Scripted:
    """Stands for an engine, and its family, whose model says what a script says, in turn, to each kind of prompt."""

    divide: Sequence[str]
    convert: Sequence[str] = ()
    seeds: list[int] = field(default_factory=list)

    @property
    def family(self) -> Scripted:
        return self

    def text_prompt(self, text: str) -> Prompt:
        return Prompt([ord(character) for character in text])

    def check(self, prompt: Prompt) -> None:
        if TOO_LONG in self.answer(prompt.ids):
            raise BadRow("prompt-too-long", "3000 tokens")

    def answer(self, ids: Sequence[int]) -> str:
        text = "".join(map(chr, ids))
        if text == THOUGHT:
            raise BadRow("unfinished-reasoning", "9 tokens")
        return text

    def sample(self, requests: Iterable[tuple[Any, Prompt, Draw]], decoding: Decoding) -> Iterator[tuple[Any, Sampled]]:
        source, divide, convert = iter(requests), iter(self.divide), iter(self.convert)
        while request := next(source, None):
            key, prompt, draw = request
            self.seeds.append(draw.seed)
            said = next(convert if "Statements:" in self.answer(prompt.ids) else divide)
            ids = tuple(map(ord, said))
            yield key, Sampled(ids, (0.0,) * len(ids), "length" if said == CUT else "stop", len(prompt.ids))


@dataclass
class Output:
    """Keeps what was added."""

    found: list[Mapping[str, Any] | Rejected] = field(default_factory=list)

    def begin(self, id: str, rows: int) -> None:
        assert rows == 1

    def add(self, row: Mapping[str, Any]) -> None:
        self.found.append(row)

    def reject(self, rejected: Rejected) -> None:
        self.found.append(rejected)


def divided(engine: Scripted, answer: str = "A red cat sits.") -> Mapping[str, Any] | Rejected:
    output = Output()
    divider = LLMDivider(ModelWriter(engine), LLMSplitter(model=Source(uri="x"), attempts=3), 0, output)  # type: ignore[arg-type]
    list(divider.divide({"i": [Sample("i", 4, "What is it?", answer)]}))
    assert len(output.found) == 1
    return output.found[0]


@pytest.mark.parametrize(
    ("divide", "convert"),
    [
        pytest.param([FACTS], [QUESTIONS], id="at once"),
        pytest.param(["Sure! Here:\n" + FACTS, CUT, FACTS], [QUESTIONS], id="claims at the third attempt"),
        pytest.param([THOUGHT, FACTS], [THOUGHT, QUESTIONS], id="after thoughts without an end"),
        pytest.param([FACTS], ["- Only one?", "", QUESTIONS], id="questions at the third attempt"),
        pytest.param([CUT, CUT, FACTS], [CUT, CUT, QUESTIONS], id="each step has its own attempts"),
    ],
)
def test_divided(divide: list[str], convert: list[str]) -> None:
    engine = Scripted(divide, convert)
    assert divided(engine) == {
        "id": "i",
        "candidate": 4,
        "claims": ("A cat sits.", "It is red."),
        "questions": (f"Does a cat sit? {REQUEST}", f"Is it red? {REQUEST}"),
    }
    assert len(set(engine.seeds)) == len(divide) + len(convert), "every attempt has a seed of its own"


def test_an_answer_without_facts_has_no_claims() -> None:
    assert divided(Scripted(["NONE"])) == {"id": "i", "candidate": 4, "claims": (), "questions": ()}


@pytest.mark.parametrize(
    ("divide", "convert", "answer", "expected"),
    [
        pytest.param(
            ["no list"] * 3, [], "x", Rejected("i", 4, "unparsable-claims", "'no list' is not an item of a list"),
            id="never a list",
        ),
        pytest.param(
            [CUT] * 3,
            [],
            "x",
            Rejected("i", 4, "unparsable-claims", "the list is longer than spec.splitting.llm.maxNewTokens 2048"),
            id="always cut",
        ),
        pytest.param(
            [FACTS], ["- Is it red?"] * 3, "x",
            Rejected("i", 4, "claim-question-mismatch", "1 questions for 2 claims"), id="never a question for each",
        ),
        pytest.param(
            [FACTS], ["- It is red.\n- It sits."] * 3, "x",
            Rejected("i", 4, "claim-question-mismatch", "'It is red.' is not a question"), id="no questions",
        ),
        pytest.param([], [], TOO_LONG, Rejected("i", 4, "prompt-too-long", "3000 tokens"), id="answer too long"),
        pytest.param(
            [f"- {TOO_LONG}"], [], "x", Rejected("i", 4, "prompt-too-long", "3000 tokens"), id="claims too long"
        ),
    ],
)  # fmt: skip
def test_given_up(divide: list[str], convert: list[str], answer: str, expected: Rejected) -> None:
    assert divided(Scripted(divide, convert), answer) == expected


def test_braces_in_answers_are_text() -> None:
    assert divided(Scripted(["NONE"]), "{question} {0} {{claims}}") == {
        "id": "i", "candidate": 4, "claims": (), "questions": (),
    }  # fmt: skip
