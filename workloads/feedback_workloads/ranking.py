"""Self-feedback at inference: which of several answers the aligned policy prefers most over its reference.

Paper (arXiv 2405.17220), section on inference-time scaling: r(y) = (beta / T) * log(pi(y|x) / pi_ref(y|x)).
"""

from __future__ import annotations

from collections.abc import Sequence


def reward(logp: float, ref_logp: float, tokens: int, beta: float, normalise: bool = True) -> float:
    """The reward of one answer, in units of beta nats: per token, or of the whole answer without `normalise`.

    `logp` and `ref_logp` are the answer's summed log-probabilities under the policy and its reference, over the same
    `tokens` tokens, end of sequence included. An answer of no tokens has reward 0.
    """
    total = beta * (logp - ref_logp)
    return total / max(tokens, 1) if normalise else total


def best(rewards: Sequence[float]) -> int:
    """Index of the largest reward; of equal ones, the lowest. Raises ValueError when there is none."""
    return max(range(len(rewards)), key=lambda i: (rewards[i], -i))
