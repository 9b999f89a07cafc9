"""Orthogonalised updates in float32, for processors of every kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon (https://kellerjordan.github.io/posts/muon/) with its Newton-Schulz iteration in the weights' type.

    torch casts to bfloat16 there, which a processor without such instructions emulates: a step then takes some twenty
    times as long. Options and state are torch's, but for `adjust_lr_fn`, whose default ("original") it is.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                average = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(average, momentum) if group["nesterov"] else average
                update = orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rows, columns = weight.shape
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The matrix with its singular values brought near to 1, by `steps` of a quintic Newton-Schulz iteration."""
    a, b, c = coefficients
    upright = matrix.size(0) > matrix.size(1)
    flat = matrix.T if upright else matrix
    flat = flat / flat.norm().clamp(min=eps)
    for _ in range(steps):
        gram = flat @ flat.T
        flat = torch.addmm(flat, torch.addmm(gram, gram, gram, beta=b, alpha=c), flat, beta=a)
    return flat.T if upright else flat
