"""Self-feedback at inference: which of several answers the aligned policy prefers most over its reference.

Pure arithmetic: the evaluation and the best-of-N server rank with these functions and nothing else.
Paper (arXiv 2405.17220), section on inference-time scaling: r(y) = (beta / T) * log(pi(y|x) / pi_ref(y|x)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def reward(logp: float, ref_logp: float, tokens: int, beta: float, normalise: bool = True) -> float:
    """The reward of one answer, in units of beta nats: per token, or of the whole answer without `normalise`.

    `logp` and `ref_logp` are the answer's summed log-probabilities (at temperature 1) under the policy and its
    reference, over the same `tokens` tokens, end of sequence included where it was sampled. An answer of no tokens
    has reward 0. Without `normalise` short answers are favoured.
    """
    total = beta * (logp - ref_logp)
    return total / max(tokens, 1) if normalise else total


def order(rewards: Sequence[float]) -> list[int]:
    """Indices of `rewards`, best first; ties go to the lower index, and NaN comes last."""
    # sorted() is stable, which settles ties; the first key keeps NaN, which compares with nothing, out of the way.
    return sorted(range(len(rewards)), key=lambda i: (math.isnan(rewards[i]), -rewards[i]))


def best(rewards: Sequence[float]) -> int:
    """Index of the largest reward; of equal ones, the lowest. Raises IndexError when there is none."""
    return order(rewards)[0]
