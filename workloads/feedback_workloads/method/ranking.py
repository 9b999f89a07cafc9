"""Self-feedback at inference: which of several answers is best, by what the aligned policy and its reference say of it.

Pure arithmetic: the evaluation and the best-of-N server rank with these functions and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import assert_never

from feedback_workloads.contract import Ranking


def rankings(lambdas: Iterable[float]) -> list[Ranking]:
    """Every rule, `Regularised` once for each weight."""
    return [
        Ranking(rule="LogRatio"),
        Ranking(rule="LogRatioSum"),
        Ranking(rule="PolicyLikelihood"),
        *(Ranking(rule="Regularised", weight=weight) for weight in lambdas),
    ]


def reward(ranking: Ranking, logp: float, ref_logp: float, tokens: int, beta: float) -> float:
    """What an answer is worth by a rule: the larger, the better. Rewards of two rules do not compare.

    `logp` and `ref_logp` are the answer's summed log-probabilities (nats, at temperature 1) under the policy and its
    reference, over the same `tokens` tokens, end of sequence included where it was sampled.

    LogRatio: (beta / T) * log(pi / pi_ref), the paper's (arXiv 2405.17220, inference-time scaling).
    LogRatioSum: the same without 1 / T, which favours short answers.
    PolicyLikelihood: log pi. The paper has no such line; it asks nothing of the reference.
    Regularised: LogRatio with lambda * log pi_ref added to the log-ratio, so that among many answers one that both
    models find absurd does not win by its ratio (arXiv 2404.01054).
    """
    length = max(tokens, 1)
    match ranking.rule:
        case "LogRatio":
            return beta * (logp - ref_logp) / length
        case "LogRatioSum":
            return beta * (logp - ref_logp)
        case "PolicyLikelihood":
            return logp
        case "Regularised":
            return beta * (logp - ref_logp + ranking.weight * ref_logp) / length
        case _:
            assert_never(ranking.rule)


def asks_reference(ranking: Ranking) -> bool:
    """Whether a rule needs the reference's log-probability of an answer at all."""
    return ranking.rule != "PolicyLikelihood"


def order(rewards: Sequence[float]) -> list[int]:
    """Indices of `rewards`, best first; ties go to the lower index, and NaN comes last."""
    # sorted() is stable, which settles ties; the first key keeps NaN, which compares with nothing, out of the way.
    return sorted(range(len(rewards)), key=lambda i: (math.isnan(rewards[i]), -rewards[i]))


def best(rewards: Sequence[float]) -> int:
    """Index of the largest reward; of equal ones, the lowest. Raises IndexError when there is none."""
    return order(rewards)[0]
