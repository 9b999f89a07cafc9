"""One row for both answers of a pair, so that what they have in common is computed once.

Both follow the same picture and question: some six hundred tokens before two answers of a hundred. A pair is packed as

    what both share | rest of the chosen side | rest of the rejected side | padding

where a rest begins at the first token that differs. A token of a rest attends to what is shared and to its own rest, at
the position that it has alone, so losses and gradients are those of two rows. The idea is prefix sharing for paired
preferences (https://arxiv.org/abs/2410.20305); the picture, being shared, goes through the vision tower once as well.

A decoder that hands on a state from token to token heeds no mask: there the answers of a pair stay two rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from feedback_workloads.contract import BadInput
from feedback_workloads.models.family import Family


@dataclass(frozen=True)
class Packed:
    """Pairs, each packed into one row of `width` tokens.

    `input_ids` has shape (pairs, width), and so has `position_ids`, or (axes, pairs, width); `attends`, of bool,
    (pairs, 1, width, width): whether the token of the third axis attends to that of the fourth. `places` has shape
    (2 pairs, tokens): where each token of the batch that was packed is found in its pair's row; padding is anywhere.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attends: torch.Tensor
    places: torch.Tensor

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """States of the packed tokens, (pairs, width, features), in the form of the batch that was packed."""
        return torch.cat([states.take_along_dim(side[..., None], dim=1) for side in self.places.chunk(2)])


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, positions: torch.Tensor) -> Packed:
    """Pack a batch of shape (2 pairs, tokens): chosen sides first, then the rejected ones, padded on the right.

    `positions` are those of its tokens, of shape (..., 2 pairs, tokens).
    """
    chosen, rejected = input_ids.chunk(2)
    chosen_length, rejected_length = attention_mask.sum(dim=1, keepdim=True).chunk(2)
    column = torch.arange(input_ids.shape[1], device=input_ids.device)
    same = (chosen == rejected) & (column < torch.minimum(chosen_length, rejected_length))
    shared = same.long().cumprod(dim=1).sum(dim=1, keepdim=True)
    moved = chosen_length - shared  # by so much the rest of the rejected side is further to the right

    width = int((rejected_length + moved).max())
    place = torch.arange(width, device=input_ids.device)
    of_chosen = place < chosen_length
    source = torch.where(of_chosen, place, place - moved).clamp(max=len(column) - 1)
    side = torch.where(place < shared, 0, torch.where(of_chosen, 1, 2))
    seen = (side[:, None, :] == 0) | (side[:, None, :] == side[:, :, None])

    def packed(rows: torch.Tensor) -> torch.Tensor:
        """What the rows have for each token, in its place; both sides of a pair from the columns `source`."""
        columns = source.expand(*rows.shape[:-2], *source.shape)
        return torch.where(of_chosen, *(side.take_along_dim(columns, dim=-1) for side in rows.chunk(2, dim=-2)))

    place_of_rejected = torch.where(column < shared, column, column + moved)
    return Packed(
        input_ids=packed(input_ids),
        position_ids=packed(positions),
        attends=(seen & (place[None, :] <= place[:, None]))[:, None],
        places=torch.cat([column.expand_as(chosen), place_of_rejected]).clamp(max=width - 1),
    )


def take_pairs(model: PreTrainedModel, family: Family, max_length: int) -> None:
    """Let `model` take batches of pairs with pictures for each pair; outputs have the form that they have without.

    What the sides of a pair share is computed once where the family can share prompts. Else each side is a row, and has
    the pictures for itself. Raises BadInput for a model that is to share, and whose attention does not reach over
    `max_length` tokens: it would need another mask.
    """
    backbone = model.base_model
    original = backbone.forward

    def in_one_row(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
        sides = zip(input_ids.chunk(2), attention_mask.chunk(2), strict=True)
        positions = [family.positions(backbone, ids, mask, rest) for ids, mask in sides]
        packed = pack(input_ids, attention_mask, torch.cat(positions, dim=-2))
        outputs = original(
            input_ids=packed.input_ids, attention_mask=packed.attends, position_ids=packed.position_ids, **rest
        )
        outputs.last_hidden_state = packed.unpack(outputs.last_hidden_state)
        return outputs

    def in_two_rows(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
        twice = {name: torch.cat([one, one]) if isinstance(one, torch.Tensor) else one for name, one in rest.items()}
        positions = family.positions(backbone, input_ids, attention_mask, twice)
        return original(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, **twice)

    if "share-prompts" in family.capabilities:
        _check_reach(model, max_length)
        backbone.forward = in_one_row
    else:
        backbone.forward = in_two_rows


def _check_reach(model: PreTrainedModel, max_length: int) -> None:
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and window < max_length:
        raise BadInput(
            f"{type(model).__name__} attends over {window} tokens, fewer than spec.training.maxLength {max_length}; "
            f"lower it to {window}"
        )
