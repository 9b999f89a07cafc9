"""What no row of training could hold is not sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest
from PIL import Image

from feedback_workloads.contract import BadInput, Decoding, LaterModel, Model, SamplingConfig, Source
from feedback_workloads.models.family import Prompt, Shown
from feedback_workloads.rows.conversations import Message, question_of
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.stages.preflight import PROBED, check_policy


class Counted:
    """Stands for a family whose pictures say how many tokens they have."""

    capabilities = frozenset({"train"})
    most_pictures = 1
    config: Mapping[str, object] = {}
    model = Model(uri="s3://b/x")

    def conversation(self, messages: Sequence[Message], pictures: Sequence[bytes]) -> Prompt:
        if b"?" in pictures:
            raise BadRow("undecodable-picture", "1 byte")
        picture = Image.new("RGB", (1, 1))
        shown = tuple(Shown(picture, "", int(data)) for data in pictures)
        return Prompt(list(range(len(question_of(messages)))), shown)


def given(lengths: Iterable[int]) -> list[Instruction | Rejected]:
    """Instructions whose prompts have these lengths; an unreadable picture and a rejected row before them."""
    bad = [Instruction.plain("a", b"?", "What?"), Rejected("b", None, "empty-question", "no text")]
    return [*bad, *(Instruction.plain(str(i), str(length - 4).encode(), "What?") for i, length in enumerate(lengths))]


def config(**changes: object) -> SamplingConfig:
    source = Source(uri="s3://b/x")
    return SamplingConfig.model_validate({"output": "s3://b/o", "model": source, "instructions": source, **changes})


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([600] * 60, id="room for all"),
        pytest.param([2047], id="for one token"),
        pytest.param([600] * 59 + [2900] * 3, id="for all but a few, which are rejected rows"),
        pytest.param([600] * PROBED + [2900] * 1000, id="what comes later is not measured"),
        pytest.param([], id="nothing to ask"),
    ],
)
def test_sampled(lengths: list[int]) -> None:
    check_policy(config(), Counted(), given(lengths))  # type: ignore[arg-type]


def test_pictures_that_fill_a_row_end_it_before_anything_is_sampled() -> None:
    """LLaVA-NeXT's 2,928 tokens under the default of 2,048: every pair was rejected, in the last stage but one."""
    with pytest.raises(BadInput) as refused:
        check_policy(config(decoding=Decoding(max_new_tokens=512)), Counted(), given([600, 2340, 2928]))  # type: ignore[arg-type]
    assert str(refused.value) == (
        "2 of the first 3 prompts leave no room for an answer within spec.training.maxLength 2048: with its picture, "
        "the longest has 2928 tokens; raise it to 3440 or more, or make the pictures smaller"
    )
    check_policy(config(max_length=3440), Counted(), given([600, 2340, 2928]))  # type: ignore[arg-type]


def test_what_is_only_looked_at_changes_nothing_that_is_sampled() -> None:
    labeler = LaterModel(field="spec.labeling.model", capability="label", source=Source(uri="s3://b/labeler"))
    other = config(max_length=4096, lora=True, later_models=(labeler,))
    assert config().content_hash() == other.content_hash()
