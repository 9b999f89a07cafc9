"""Packing pairs into rows: each token attends to what it attends to alone, at its own position."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from feedback_workloads.contract import BadInput
from feedback_workloads.models.llava import Llava
from feedback_workloads.training.batches.shared_prompt import Packed, pack, take_pairs

PAD = 0
tokens = st.lists(st.integers(1, 3), min_size=1, max_size=5)
pairs = st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=3)
"""Prompt, chosen and rejected completion; of few tokens, so that completions often begin alike."""


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def packed(drawn: list[tuple[list[int], list[int], list[int]]]) -> tuple[list[list[int]], Packed]:
    rows = [prompt + chosen for prompt, chosen, _ in drawn] + [prompt + rejected for prompt, _, rejected in drawn]
    ids, mask = padded(rows)
    return rows, pack(ids, mask, torch.arange(ids.shape[1]).expand_as(ids))


@given(pairs)
def test_a_token_attends_to_what_is_before_it_in_its_own_row(
    drawn: list[tuple[list[int], list[int], list[int]]],
) -> None:
    rows, found = packed(drawn)
    for number, row in enumerate(rows):
        pair = number % len(drawn)
        for column in range(len(row)):
            place = found.places[number, column]
            seen = found.attends[pair, 0, place]
            attended = zip(found.position_ids[pair, seen].tolist(), found.input_ids[pair, seen].tolist(), strict=True)
            assert sorted(attended) == list(enumerate(row[: column + 1]))


@given(pairs)
def test_unpacked_is_what_was_packed(drawn: list[tuple[list[int], list[int], list[int]]]) -> None:
    rows, found = packed(drawn)
    states = found.unpack(found.input_ids[..., None])[..., 0]
    assert [states[number, : len(row)].tolist() for number, row in enumerate(rows)] == rows


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "width"),
    [
        pytest.param([1] * 10, [2, 3], [3, 2], 14, id="the prompt once"),
        pytest.param([1] * 10, [2, 2, 3], [2, 2, 1], 14, id="and how both answers begin"),
        pytest.param([1] * 10, [2, 2], [2, 2, 3], 13, id="one answer begins with the other"),
        pytest.param([1] * 10, [2, 2], [2, 2], 12, id="the same answer twice"),
        pytest.param([1], [2], [3], 3, id="the shortest pair"),
    ],
)
def test_what_is_shared_is_there_once(prompt: list[int], chosen: list[int], rejected: list[int], width: int) -> None:
    _, found = packed([(prompt, chosen, rejected)])
    assert found.input_ids.shape == (1, width)


def test_every_token_attends_to_something() -> None:
    """Attention over nothing is no number, and would spoil the gradients of all other rows."""
    _, found = packed([([1], [2], [3]), ([1] * 5, [2] * 4, [3] * 5)])
    assert found.attends.any(dim=-1).all()


@given(pairs)
def test_positions_of_several_coordinates_go_with_their_tokens(
    drawn: list[tuple[list[int], list[int], list[int]]],
) -> None:
    rows = [prompt + chosen for prompt, chosen, _ in drawn] + [prompt + rejected for prompt, _, rejected in drawn]
    ids, mask = padded(rows)
    place = torch.arange(ids.shape[1]).expand_as(ids)
    found = pack(ids, mask, torch.stack([place, ids]))
    assert torch.equal(found.position_ids[0], pack(ids, mask, place).position_ids)
    assert torch.equal(found.position_ids[1], found.input_ids)


def of_decoder(kind: str) -> Llava:
    return Llava(Path("model"), {"model_type": "llava", "text_config": {"model_type": kind}})


def small_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


def test_a_model_that_looks_back_over_a_window() -> None:
    model = small_llama()
    model.config.sliding_window = 512
    with pytest.raises(BadInput, match=r"over 512 tokens, fewer than spec\.training\.maxLength 2048; lower it to 512"):
        take_pairs(model, of_decoder("llama"), max_length=2048)
    take_pairs(model, of_decoder("llama"), max_length=512)


@pytest.mark.parametrize(("decoder", "rows"), [("llama", 1), ("lfm2", 2), ("nobody knows", 2)])
def test_what_may_hand_a_state_from_token_to_token_gets_two_rows(decoder: str, rows: int) -> None:
    model, given = small_llama(), padded([[1, 2, 3], [1, 2, 2, 1]])
    seen: list[torch.Size] = []

    def watch(*, input_ids: torch.Tensor, **rest: Any) -> Any:
        seen.append(input_ids.shape)
        assert rest["pixels"].shape[0] == rows, "each row has the picture of its pair"
        return SimpleNamespace(last_hidden_state=input_ids[..., None])

    model.model.forward = watch
    take_pairs(model, of_decoder(decoder), max_length=64)
    outputs = model.model(input_ids=given[0], attention_mask=given[1], pixels=torch.ones(1, 3))
    assert seen[0][0] == rows
    assert outputs.last_hidden_state[..., 0].masked_fill(given[1] == 0, PAD).tolist() == given[0].tolist()
