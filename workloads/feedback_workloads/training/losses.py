"""The terms of the training loss: TRL's names of those that TRL has, and the others as functions of log-probabilities.

TRL's terms compare the answers of a pair. Ours come beside them and are of the chosen answer alone:

    SFT          RPO's negative log-likelihood (https://arxiv.org/abs/2404.19733, equation 1)
    Conditional  mDPO's preference for the picture over a piece of it (https://arxiv.org/abs/2406.11839, section 3.2)
    Anchored     mDPO's reward above an anchor (the same, section 3.3)

TRL has a term `sft` as well: a mean over all tokens that a device holds at once, so that what is learned would depend
on how many pairs these are. Here, as in RPO's paper, it is a mean over the tokens of an answer, and then over answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import logsigmoid

from feedback_workloads.contract import AddedLoss, Loss, PreferenceLoss

TRL_NAMES: Final[Mapping[PreferenceLoss, str]] = {
    "Sigmoid": "sigmoid",
    "SigmoidNorm": "sigmoid_norm",
    "IPO": "ipo",
    "Robust": "robust",
    "APOZero": "apo_zero",
    "APODown": "apo_down",
    "BCOPair": "bco_pair",
}


@dataclass(frozen=True)
class Chosen:
    """What policy and reference say of the chosen answers of a batch.

    All have shape (pairs,): sums of log-probabilities over an answer's tokens, in nats, and the number of its tokens;
    `cropped` are those under a piece of the picture, and are there where the loss is conditional.
    """

    logps: torch.Tensor
    ref_logps: torch.Tensor
    tokens: torch.Tensor
    cropped_logps: torch.Tensor | None = None
    ref_cropped_logps: torch.Tensor | None = None


def sft(chosen: Chosen, beta: float, loss: Loss) -> torch.Tensor:
    return -chosen.logps / chosen.tokens


def conditional(chosen: Chosen, beta: float, loss: Loss) -> torch.Tensor:
    assert chosen.cropped_logps is not None
    return -logsigmoid(beta * ((chosen.logps - chosen.ref_logps) - (chosen.cropped_logps - chosen.ref_cropped_logps)))


def anchored(chosen: Chosen, beta: float, loss: Loss) -> torch.Tensor:
    return -logsigmoid(beta * (chosen.logps - chosen.ref_logps) - loss.anchor)


ADDED: Final[Mapping[AddedLoss, Callable[[Chosen, float, Loss], torch.Tensor]]] = {
    "SFT": sft,
    "Conditional": conditional,
    "Anchored": anchored,
}
"""Each gives one value a pair, of shape (pairs,)."""


def trl_settings(loss: Loss) -> dict[str, Any]:
    """The fields of TRL's DPOConfig that say which terms it computes."""
    terms = [term for term in loss.terms if term.type in TRL_NAMES]
    return {
        "loss_type": [TRL_NAMES[term.type] for term in terms],
        "loss_weights": [term.weight for term in terms],
        "label_smoothing": loss.label_smoothing,
        "ld_alpha": loss.ld_alpha,
    }


def added(loss: Loss, beta: float, chosen: Chosen) -> torch.Tensor:
    """The weighted sum of our terms, each a mean over the pairs."""
    terms = [term.weight * ADDED[term.type](chosen, beta, loss).mean() for term in loss.terms if term.type in ADDED]
    return torch.stack(terms).sum()
