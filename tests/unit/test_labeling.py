"""Which of the labeler's answers are verdicts, and what becomes of the answers that it judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from feedback_workloads.engine import Prompt, Verdict
from feedback_workloads.models.family import Shown
from feedback_workloads.rows.conversations import Message, question_of
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.stages.labeling import AskedAnswer, Case, Judging, ModelJudge

YES, NO = Verdict(0.75, 0.25, 20, 10), Verdict(0.25, 0.75, 20, 10)
NOISE = Verdict(0.002, 0.001, 20, 10)
"""The next token is the first one of a thought: some probability is left for everything else."""


class Model:
    """Stands for the labeler's engine and its family."""

    @property
    def family(self) -> Model:
        return self

    def check(self, prompt: Prompt) -> None:
        pass

    def show(self, pictures: Sequence[bytes]) -> tuple[Shown, ...]:
        return tuple(Shown(Image.new("RGB", (1, 1)), data.decode(), 16) for data in pictures)

    def conversation_ids(self, messages: Sequence[Message], purpose: str) -> list[int]:
        assert purpose == "verdict"
        return [ord(character) for character in question_of(messages)]


@dataclass
class Output:
    """Keeps what was added."""

    found: dict[int, Mapping[str, Any] | Rejected] = field(default_factory=dict)

    def begin(self, id: str, rows: int) -> None:
        pass

    def add(self, row: Mapping[str, Any]) -> None:
        self.found[row["candidate"]] = row

    def reject(self, rejected: Rejected) -> None:
        assert rejected.candidate is not None
        self.found[rejected.candidate] = rejected


def judged(answers: Sequence[Sequence[str]], said: Mapping[str, Verdict], floor: float = 0.5) -> Output:
    """The answers to one instruction, each a list of questions, after the labeler said this."""
    output = Output()
    case = Case([AskedAnswer("i", candidate, questions) for candidate, questions in enumerate(answers)])
    judging = Judging({"i": case}, ModelJudge(Model()), output, floor)  # type: ignore[arg-type]
    instructions: Iterator[Instruction] = iter([Instruction.plain("i", b"picture", "What is it?")])
    for (id, question), _ in judging.questions(instructions):
        judging.take(id, question, said[question])
    return output


def test_a_claim_is_judged_on_all_pictures_and_without_the_turns() -> None:
    turns = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}, {"type": "image"}]},)
    judging = Judging({"i": Case([AskedAnswer("i", 0, ["red?"])])}, ModelJudge(Model()), Output(), 0.5)  # type: ignore[arg-type]
    ((_, prompt),) = judging.questions([Instruction("i", (b"a", b"b"), turns)])
    assert [one.key for one in prompt.shown] == ["a", "b"]
    assert "".join(map(chr, prompt.ids)) == "[picture 1] [picture 2] red?"


def test_noise_never_decides_where_the_labeler_says_neither_yes_nor_no() -> None:
    """p(yes) > p(no) holds of noise, too."""
    found = judged([["red?", "blue?"], ["blue?"], ["red?"], []], {"red?": NOISE, "blue?": YES}).found
    assert {number for number, row in found.items() if isinstance(row, Rejected)} == {0, 2}
    rejected = found[2]
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.candidate) == ("neither-yes-nor-no", 2)
    assert "p(yes) + p(no) is 0.003, below spec.labeling.minYesNoMass 0.5" in rejected.detail
    assert found[1] == {"id": "i", "candidate": 1, "p_yes": [0.75], "p_no": [0.25], "accepted": [True]}


@pytest.mark.parametrize("floor", [0.0, 0.003])
def test_the_floor_is_what_was_configured(floor: float) -> None:
    found = judged([["red?", "blue?"]], {"red?": NOISE, "blue?": NO}, floor).found
    assert found[0]["accepted"] == [True, False]  # type: ignore[index]
