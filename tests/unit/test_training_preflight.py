"""Which pairs may be trained on."""

from typing import Any

import pytest

from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.training.batches.preflight import check_pair

END, IMAGE, VIDEO = 2, 4, 5


def pair(**changes: Any) -> dict[str, Any]:
    chosen, rejected = changes.pop("chosen", [10, 11, END]), changes.pop("rejected", [12, END])
    return {
        "prompt_tokens": 20,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_logps": [-1.0] * len(chosen),
        "rejected_logps": [-1.0] * len(rejected),
        "end_ids": {END},
        "banned_ids": (IMAGE, VIDEO),
        "max_length": 64,
        **changes,
    }


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(pair(chosen=[]), "empty-completion", id="nothing chosen"),
        pytest.param(pair(rejected=[]), "empty-completion", id="nothing rejected"),
        pytest.param(pair(chosen_logps=[-1.0]), "missing-logprobs", id="fewer log-probabilities than tokens"),
        pytest.param(pair(rejected=[IMAGE, END]), "picture-token-in-completion", id="the sampler drew a picture"),
        pytest.param(pair(rejected=[VIDEO, END]), "picture-token-in-completion", id="the sampler drew a video"),
        pytest.param(pair(chosen=[10, 11]), "no-end-of-sequence", id="chosen stopped at the length limit"),
        pytest.param(pair(rejected=[12, 13]), "no-end-of-sequence", id="rejected stopped at the length limit"),
        pytest.param(pair(chosen=[12, END]), "identical-completions", id="both sides alike"),
        pytest.param(pair(prompt_tokens=62), "too-long", id="one token too long for the chosen side"),
        pytest.param(pair(max_length=22), "too-long", id="counted with the picture expanded"),
    ],
)
def test_rejected(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        check_pair(**given)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(pair(), id="plain"),
        pytest.param(pair(prompt_tokens=61), id="exactly max_length"),
        pytest.param(pair(chosen=[10, 9], rejected=[12, END], end_ids={END, 9}), id="either end token"),
        pytest.param(pair(chosen=[END]), id="an answer that says nothing but ends"),
    ],
)
def test_accepted(given: dict[str, Any]) -> None:
    check_pair(**given)
