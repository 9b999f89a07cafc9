"""Best-of-N: sample candidates from the policy, score each against the reference, put the best first."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from feedback_workloads.method.ranking import order, reward
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.serving.protocol import Score

if TYPE_CHECKING:
    from feedback_workloads.contract import Ranking
    from feedback_workloads.models.family import Prompt
    from feedback_workloads.serving.engines import Candidate, Engines, Sampling


@dataclass(frozen=True)
class Ranked:
    """All candidates in the order in which they were drawn, their scores, and the candidates' places, best first.

    Without scores, nothing was compared and there is one candidate. `ref_logp` of a score is NaN where the reference
    was not asked.
    """

    candidates: tuple[Candidate, ...]
    scores: tuple[Score, ...] | None
    order: tuple[int, ...]


async def best_of(
    engines: Engines,
    prompt: Prompt,
    sampling: Sampling,
    candidates: int,
    *,
    ranking: Ranking,
    beta: float,
    reference: bool = True,
) -> Ranked:
    """Draw `candidates` answers that differ in their seeds alone, and rank them; without `reference`, do not ask it.

    Each is scored as soon as it is complete, while others are still being written; equal answers are scored once.
    Raises what the engines raise; when this is cancelled, so is all the work it started.
    """
    scoring: dict[tuple[int, ...], asyncio.Task[float]] = {}

    async def draw(index: int) -> tuple[Candidate, float]:
        answer = await engines.generate(prompt, replace(sampling, seed=candidate_seed(sampling.seed, index)))
        if not reference:
            return answer, math.nan
        if answer.token_ids not in scoring:
            scoring[answer.token_ids] = group.create_task(engines.reference_logp(prompt, answer.token_ids))
        return answer, await scoring[answer.token_ids]

    try:
        async with asyncio.TaskGroup() as group:
            drawing = [group.create_task(draw(index)) for index in range(candidates)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    drawn = [task.result() for task in drawing]
    scores = tuple(_score(i, answer, ref_logp, ranking, beta) for i, (answer, ref_logp) in enumerate(drawn))
    return Ranked(tuple(answer for answer, _ in drawn), scores, tuple(order([score.reward for score in scores])))


def candidate_seed(seed: int | None, index: int) -> int | None:
    """The seed of one candidate: those of one request, and of neighbouring seeds, share no random numbers."""
    return None if seed is None else row_seed(seed, "serving", index)


def _score(index: int, answer: Candidate, ref_logp: float, ranking: Ranking, beta: float) -> Score:
    tokens = len(answer.token_ids)
    return Score(
        candidate=index,
        reward=reward(ranking, answer.logp, ref_logp, tokens, beta),
        logp=answer.logp,
        ref_logp=ref_logp,
        tokens=tokens,
    )
