"""One row for both answers of a pair, so that what they have in common is computed once.

Both follow the same picture and question: some six hundred tokens before two answers of a hundred. A pair is packed as

    what both share | rest of the chosen side | rest of the rejected side | padding

where a rest begins at the first token that differs. A token of a rest attends to what is shared and to its own rest, at
the position that it has alone, so losses and gradients are those of two rows. The idea is prefix sharing for paired
preferences (https://arxiv.org/abs/2410.20305); the picture, being shared, goes through the vision tower once as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from feedback_workloads.contract import BadInput


@dataclass(frozen=True)
class Packed:
    """Pairs, each packed into one row of `width` tokens.

    `input_ids` and `position_ids` have shape (pairs, width); `attends`, of bool, (pairs, 1, width, width): whether the
    token of the third axis attends to that of the fourth. `places` has shape (2 pairs, tokens): where each token of the
    batch that was packed is found in its pair's row; padding is anywhere.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attends: torch.Tensor
    places: torch.Tensor

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """States of the packed tokens, (pairs, width, features), in the form of the batch that was packed."""
        return torch.cat([states.take_along_dim(side[..., None], dim=1) for side in self.places.chunk(2)])


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Packed:
    """Pack a batch of shape (2 pairs, tokens): chosen sides first, then the rejected ones, padded on the right."""
    chosen, rejected = input_ids.chunk(2)
    chosen_length, rejected_length = attention_mask.sum(dim=1, keepdim=True).chunk(2)
    column = torch.arange(input_ids.shape[1], device=input_ids.device)
    same = (chosen == rejected) & (column < torch.minimum(chosen_length, rejected_length))
    shared = same.long().cumprod(dim=1).sum(dim=1, keepdim=True)
    moved = chosen_length - shared  # by so much the rest of the rejected side is further to the right

    width = int((rejected_length + moved).max())
    place = torch.arange(width, device=input_ids.device)
    of_chosen = place < chosen_length
    position = torch.where(of_chosen, place, place - moved).clamp(max=len(column) - 1)
    side = torch.where(place < shared, 0, torch.where(of_chosen, 1, 2))
    seen = (side[:, None, :] == 0) | (side[:, None, :] == side[:, :, None])
    place_of_rejected = torch.where(column < shared, column, column + moved)
    return Packed(
        input_ids=torch.where(of_chosen, chosen.gather(1, position), rejected.gather(1, position)),
        position_ids=position,
        attends=(seen & (place[None, :] <= place[:, None]))[:, None],
        places=torch.cat([column.expand_as(chosen), place_of_rejected]).clamp(max=width - 1),
    )


def share_prompts(model: PreTrainedModel, max_length: int) -> None:
    """Let `model` take batches of pairs with one picture a pair, and compute what the sides of a pair share once.

    Outputs have the form that they have without. Raises BadInput for a model whose attention does not reach over
    `max_length` tokens: it would need another mask.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and window < max_length:
        raise BadInput(
            f"{type(model).__name__} attends over {window} tokens, fewer than max_length {max_length}; "
            f"lower max_length to {window}"
        )
    backbone = model.base_model
    original = backbone.forward

    def forward(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
        packed = pack(input_ids, attention_mask)
        outputs = original(
            input_ids=packed.input_ids, attention_mask=packed.attends, position_ids=packed.position_ids, **rest
        )
        outputs.last_hidden_state = packed.unpack(outputs.last_hidden_state)
        return outputs

    backbone.forward = forward
