"""Prompt tokens that the labeler computes for ten claims a picture of 576 tokens, with and without a shared prefix.

Counted by vLLM itself (`vllm:prefix_cache_queries` and `_hits`). Without sharing, every prompt has a picture of its own
as far as the engine knows. The model is tiny; its picture and its prompts are as long as LLaVA-1.5's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.table import Ratio
from feedback_workloads.contract import EngineConfig
from feedback_workloads.engine import Engine, Prompt
from feedback_workloads.models.families import family_of
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.schemas import VERDICTS
from feedback_workloads.stages.labeling import AskedAnswer, Case, Judging, ModelJudge
from feedback_workloads.stages.ordered import OrderedParts
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.integration.models import picture, tiny_llava

PICTURES = 12
CLAIMS = 10
SIDE = 336
PICTURE_TOKENS = 576
QUESTION = "Is block {} red? Please answer yes or no."

Request = tuple[tuple[str, str], Prompt]


@dataclass(frozen=True)
class Cost:
    """What one run over all claims took."""

    tokens: float
    seconds: float


def run() -> list[Ratio]:
    """Prefill tokens without a shared prefix over those with one; and the time, which has no goal of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny_llava(folder / "model", side=SIDE)
        with Engine.load(family_of(model), EngineConfig(max_model_len=1024, max_num_seqs=256)) as engine:
            family = engine.family
            assert family.image_tokens(family.picture(picture(0))) == PICTURE_TOKENS
            _judge(engine, folder / "warm", shared=True)
            ours = _judge(engine, folder / "ours", shared=True)
            peer = _judge(engine, folder / "peer", shared=False)
    return [
        Ratio("verdict prefill tokens, shared prefix", ours.tokens, peer.tokens, peer.tokens / ours.tokens, ">= 5"),
        Ratio("verdict seconds, shared prefix", ours.seconds, peer.seconds, peer.seconds / ours.seconds, ">= 1"),
    ]


def _judge(engine: Engine, output: Path, *, shared: bool) -> Cost:
    """Judge every claim as the stage does."""
    engine._llm.reset_prefix_cache()
    engine._llm.reset_mm_cache()
    engine._llm.llm_engine.reset_encoder_cache()
    before, began = _computed(engine), time.perf_counter()
    questions = tuple(QUESTION.format(number) for number in range(CLAIMS))
    cases = {str(i): Case((AskedAnswer(str(i), 0, questions),)) for i in range(PICTURES)}
    instructions = [Instruction.plain(str(i), picture(i, 320, 240), "What is it?") for i in range(PICTURES)]
    store, judged = ArtifactStore(output / "cache"), 0
    with store.append(str(output), VERDICTS) as parts, OrderedParts(parts, PICTURES, Progress("labeling")) as ordered:
        judging = Judging(cases, ModelJudge(engine), ordered, min_mass=0.0)  # random weights say anything
        requests = judging.questions(instructions)
        for (id, question), verdict in engine.yes_no(requests if shared else _apart(requests)):
            judging.take(id, question, verdict)
            judged += 1
    assert judged == PICTURES * CLAIMS
    return Cost(_computed(engine) - before, time.perf_counter() - began)


def _apart(requests: Iterator[Request]) -> Iterator[Request]:
    """The same prompts, each with a picture of its own as far as the engine knows."""
    for number, (key, prompt) in enumerate(requests):
        yield key, replace(prompt, shown=tuple(replace(one, key=f"{one.key}-{number}") for one in prompt.shown))


def _computed(engine: Engine) -> float:
    """Prompt tokens that were not found in the prefix cache so far."""
    found = {metric.name: metric.value for metric in engine._llm.get_metrics() if hasattr(metric, "value")}
    return float(found["vllm:prefix_cache_queries"] - found["vllm:prefix_cache_hits"])


if __name__ == "__main__":
    for ratio in run():
        print(f"{ratio.name}: ours {ratio.ours:.4g}, peer {ratio.peer:.4g}, ratio {ratio.ratio:.2f} ({ratio.goal})")
