"""Models that think aloud: when they are told not to, and what is kept of what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from feedback_workloads.contract import SamplingConfig, Source
from feedback_workloads.engine import Draw, Prompt, Sampled
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family, Purpose
from feedback_workloads.models.llava import new_processor
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.stages.answering import said
from feedback_workloads.stages.sampling import sample
from tests.integration.models import CHAT_TEMPLATE, byte_tokenizer

SWITCHED: Final = CHAT_TEMPLATE + (
    "{% if enable_thinking is defined and not enable_thinking %} <think></think>{% else %} <think>{% endif %}"
)
"""As templates have it of models that think unless they are told not to: Qwen3's."""

ALWAYS: Final = CHAT_TEMPLATE + "{{ ' <think>\\n' }}"
"""And of those that always do: Qwen3-VL-Thinking's."""

SEEING: Final = {"model_type": "llava"}
TEXT: Final = {"model_type": "llama"}


def model(folder: Path, config: dict[str, str], template: str) -> Family:
    """A model of which nothing is there but what it reads and writes."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    (new_processor(tokenizer, 28, 14) if config is SEEING else tokenizer).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return family_of(folder)


@pytest.mark.parametrize(
    ("template", "purpose", "end"),
    [
        pytest.param(CHAT_TEMPLATE, "answer", "ASSISTANT:", id="does not think"),
        pytest.param(CHAT_TEMPLATE, "verdict", "ASSISTANT:", id="does not think, verdict"),
        pytest.param(SWITCHED, "answer", "<think></think>", id="switched off"),
        pytest.param(SWITCHED, "verdict", "<think></think>", id="switched off, verdict"),
        pytest.param(ALWAYS, "answer", "ASSISTANT: <think>\n", id="thinks before an answer"),
        pytest.param(ALWAYS, "verdict", "ASSISTANT: <think>\n\n</think>\n\n", id="but not before a verdict"),
    ],
)
def test_yes_and_no_are_never_read_where_a_thought_begins(
    template: str, purpose: Purpose, end: str, tmp_path: Path
) -> None:
    family = model(tmp_path, SEEING, template)
    assert family.tokenizer.decode(family.prompt_ids("Is it red?", purpose)).endswith(end)


@pytest.mark.parametrize("config", [SEEING, TEXT], ids=["with pictures", "without"])
def test_a_splitter_never_thinks_before_it_lists(config: dict[str, str], tmp_path: Path) -> None:
    family = model(tmp_path, config, SWITCHED)
    text = family.tokenizer.decode(family.text_prompt("List the facts.").ids)
    assert text == "<s>USER: List the facts. ASSISTANT: <think></think>"


@pytest.mark.parametrize(
    ("template", "said", "answer"),
    [
        pytest.param(CHAT_TEMPLATE, " A cat.", " A cat.", id="does not think"),
        pytest.param(CHAT_TEMPLATE, "a</think>b", "a</think>b", id="does not think, and writes about it"),
        pytest.param(SWITCHED, " A cat.", " A cat.", id="switched off"),
        pytest.param(SWITCHED, "<think>Hm.</think> A cat.", "A cat.", id="switched off, and thinks"),
        pytest.param(SWITCHED, "<think>Hm. A", None, id="switched off, and thinks on"),
        pytest.param(ALWAYS, "Hm.\n</think>\n\nA cat.", "A cat.", id="thinks"),
        pytest.param(ALWAYS, "Hm. A cat.", None, id="thinks on"),
        pytest.param(ALWAYS, "Hm.</think>", "", id="says nothing after it"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(template: str, said: str, answer: str | None, tmp_path: Path) -> None:
    family = model(tmp_path, SEEING, template)
    ids = [*family.tokenizer(said)["input_ids"], min(family.eos_ids)]
    assert family.thinks == (template is ALWAYS)
    if answer is not None:
        assert family.answer(ids) == answer
        return
    with pytest.raises(BadRow) as unfinished:
        family.answer(ids)
    assert unfinished.value.reason == "unfinished-reasoning"


# ── what the stages make of it ───────────────────────────────────────────────────────────────────────────────────────

THOUGHT: Final = "<thought>"


@dataclass
class Model:
    """Stands for an engine, and its family, whose model says this in turn."""

    replies: Sequence[str]

    @property
    def family(self) -> Model:
        return self

    def conversation(self, messages: object, pictures: object) -> Prompt:
        return Prompt(list(range(9)))

    def check(self, prompt: Prompt) -> None:
        pass

    def sample(self, requests: Iterator[tuple[Any, Prompt, Draw]], decoding: object) -> Iterator[tuple[Any, Sampled]]:
        for (key, _, _), reply in zip(requests, self.replies, strict=True):
            yield key, answered(reply)

    def answer(self, ids: Sequence[int]) -> str:
        text = "".join(map(chr, ids))
        if text == THOUGHT:
            raise BadRow("unfinished-reasoning", "9 tokens")
        return text


def answered(text: str) -> Sampled:
    return Sampled(tuple(map(ord, text)), (0.0,) * len(text), "stop", 9)


@dataclass
class Output:
    """Keeps what was added."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def begin(self, id: str, rows: int) -> None:
        pass

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def reject(self, rejected: Rejected) -> None:
        self.rejected.append(rejected)


def test_a_candidate_that_is_all_thought_is_rejected_and_the_others_are_not() -> None:
    config = SamplingConfig(output="o", model=Source(uri="m"), instructions=Source(uri="i"), candidates=3)
    output, asked = Output(), [Instruction.plain("i", b"picture", "What?")]
    model: Any = Model(["A cat.", THOUGHT, "A dog."])
    list(sample(config, asked, model, output))  # type: ignore[arg-type]
    assert [(row["candidate"], row["answer"]) for row in output.rows] == [(0, "A cat."), (2, "A dog.")]
    assert output.rejected == [Rejected("i", 1, "unfinished-reasoning", "9 tokens")]


def test_an_evaluated_answer_that_is_all_thought_says_nothing() -> None:
    """Left out, it would leave a model that thinks on the questions that are easy."""
    model: Any = Model([])
    assert said(model, answered("A cat.")) == "A cat."
    assert said(model, answered(THOUGHT)) == ""
