"""What is drawn for a request that ranks, and what the reference is asked."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

import pytest

from feedback_workloads.contract import Ranking
from feedback_workloads.method.ranking import asks_reference
from feedback_workloads.serving.best_of import best_of

LOGPS = {1: -3.0, 2: -1.0, 3: -2.0}
"""The policy's log-probability of each answer, by its only token."""


@dataclass(frozen=True)
class Sampling:
    seed: int | None = None
    schema: str | None = None


@dataclass(frozen=True)
class Candidate:
    token_ids: tuple[int, ...]
    logp: float
    finish_reason: str


@dataclass
class Engines:
    """Gives one answer after the other, and counts how often the reference is asked."""

    cut_off: int = 0
    drawn: int = 0
    asked: list[tuple[int, ...]] = field(default_factory=list)

    async def generate(self, _prompt: object, _sampling: Sampling) -> Candidate:
        self.drawn += 1
        return Candidate((self.drawn,), LOGPS[self.drawn], "length" if self.drawn == self.cut_off else "stop")

    async def reference_logp(self, _prompt: object, token_ids: tuple[int, ...]) -> float:
        self.asked.append(token_ids)
        return 2 * LOGPS[token_ids[0]]


@pytest.mark.parametrize(
    ("rule", "scores", "asked", "order"),
    [
        pytest.param("PolicyLikelihood", False, 0, (1, 2, 0), id="a rule that needs no reference"),
        pytest.param("PolicyLikelihood", True, 3, (1, 2, 0), id="whose value is in the scores that are returned"),
        pytest.param("LogRatio", False, 3, (0, 2, 1), id="a rule that needs it"),
    ],
)
def test_the_reference_is_asked_where_its_word_counts(
    rule: str, scores: bool, asked: int, order: tuple[int, ...]
) -> None:
    engines, ranking = Engines(), Ranking(rule=rule)  # type: ignore[arg-type]
    ranked = asyncio.run(
        best_of(
            engines,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Sampling(),  # type: ignore[arg-type]
            3,
            ranking=ranking,
            beta=0.1,
            reference=scores or asks_reference(ranking),
        )
    )
    assert (len(engines.asked), ranked.order) == (asked, order)
    assert ranked.scores
    assert all(math.isnan(score.ref_logp) == (asked == 0) for score in ranked.scores)


@pytest.mark.parametrize(
    ("schema", "order"),
    [
        pytest.param("{}", (2, 0, 1), id="it does not keep to the schema"),
        pytest.param(None, (1, 2, 0), id="there is none"),
    ],
)
def test_an_answer_that_was_cut_off_is_last_of_those_with_a_schema(schema: str | None, order: tuple[int, ...]) -> None:
    ranked = asyncio.run(
        best_of(
            Engines(cut_off=2),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Sampling(schema=schema),  # type: ignore[arg-type]
            3,
            ranking=Ranking(rule="PolicyLikelihood"),
            beta=0.1,
        )
    )
    assert ranked.order == order
