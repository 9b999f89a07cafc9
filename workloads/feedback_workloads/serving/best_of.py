"""Best-of-N: sample candidates from the policy, score each against the reference, put the best first.

Answers that are given are scored in the same way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from feedback_workloads.method.ranking import order, reward
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.serving.protocol.parts import Score

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

    Of answers that must keep to a schema, those that are whole come before those that were cut off.

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

    with _one_error():
        async with asyncio.TaskGroup() as group:
            drawing = [group.create_task(draw(index)) for index in range(candidates)]
    drawn = [task.result() for task in drawing]
    scores = _scores(((answer.token_ids, answer.logp, ref_logp) for answer, ref_logp in drawn), ranking, beta)
    best_first = order([score.reward for score in scores])
    if sampling.schema is not None:  # who was cut off does not keep to it
        best_first.sort(key=lambda place: drawn[place][0].finish_reason == "length")
    return Ranked(tuple(answer for answer, _ in drawn), scores, tuple(best_first))


async def scored(
    engines: Engines, prompt: Prompt, answers: Sequence[tuple[int, ...]], *, ranking: Ranking, beta: float
) -> tuple[Score, ...]:
    """The scores of given answers, in their order; both models are asked, and of equal answers once.

    Raises what the engines raise; when this is cancelled, so is all the work it started.
    """
    given = list(dict.fromkeys(answers))
    with _one_error():
        async with asyncio.TaskGroup() as group:
            logps = [group.create_task(engines.policy_logp(prompt, answer)) for answer in given]
            ref_logps = [group.create_task(engines.reference_logp(prompt, answer)) for answer in given]
    found = {
        answer: (logp.result(), ref_logp.result())
        for answer, logp, ref_logp in zip(given, logps, ref_logps, strict=True)
    }
    return _scores(((answer, *found[answer]) for answer in answers), ranking, beta)


def candidate_seed(seed: int | None, index: int) -> int | None:
    """The seed of one candidate: those of one request, and of neighbouring seeds, share no random numbers."""
    return None if seed is None else row_seed(seed, "serving", index)


def _scores(answers: Iterable[tuple[Sequence[int], float, float]], ranking: Ranking, beta: float) -> tuple[Score, ...]:
    """Of answers by their tokens, and by what policy and reference say of them."""
    return tuple(
        Score(
            candidate=index,
            reward=reward(ranking, logp, ref_logp, len(token_ids), beta),
            logp=logp,
            ref_logp=ref_logp,
            tokens=len(token_ids),
        )
        for index, (token_ids, logp, ref_logp) in enumerate(answers)
    )


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise the first of the errors of a group by itself."""
    try:
        yield
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
