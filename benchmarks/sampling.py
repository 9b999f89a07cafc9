"""The sampling stage's generation against one plain `LLM.generate` over the same prompts, in the same engine.

Ours reads instructions, decodes pictures, keeps log-probabilities and writes part files on the way; the peer is handed
decoded pictures and keeps everything in memory. Both run in turns with cold caches; the median round counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import Ratio
from feedback_workloads.contract import Decoding, EngineConfig, SamplingConfig, Source, shard_uri
from feedback_workloads.engine import Engine, Prompt
from feedback_workloads.models.families import family_of
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.schemas import IMAGE, SAMPLES
from feedback_workloads.stages.ordered import OrderedParts
from feedback_workloads.stages.sampling import sample
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.integration.models import picture, tiny_llava

ROUNDS = 4
INSTRUCTIONS = 32
CANDIDATES = 10
PART_ROWS = 8
DECODING = Decoding(temperature=0.7, max_new_tokens=64)
QUESTION = "What is in the picture?"


def run() -> list[Ratio]:
    """Tokens a second of ours over those of the peer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny_llava(folder / "model", hidden=128, layers=4, side=112)
        instructions = _instructions(folder / "instructions")
        with Engine.load(family_of(model), EngineConfig(max_model_len=512, max_num_seqs=256)) as engine:
            store = ArtifactStore(folder / "cache")
            rows = [row for row in store.instructions(instructions) if isinstance(row, Instruction)]
            prompts = [engine.family.conversation(row.messages, row.images) for row in rows]
            ours, peer = [], []
            for number in range(ROUNDS + 1):
                config = _config(folder / f"round-{number}", instructions)
                ours.append(_timed(engine, lambda config=config: _stage(config, engine, store)))  # type: ignore[misc]
                peer.append(_timed(engine, lambda: _plain(engine, prompts)))
    # The first round warms both up.
    speeds = median(ours[1:]), median(peer[1:])
    return [Ratio("sampling stage, tokens/s over plain LLM.generate", *speeds, speeds[0] / speeds[1], ">= 0.95")]


def _stage(config: SamplingConfig, engine: Engine, store: ArtifactStore) -> int:
    """What the stage does once its engine is loaded; the number of sampled tokens."""
    todo, uri = store.instructions(config.instructions), shard_uri(config, 0)
    with store.append(uri, SAMPLES) as parts, OrderedParts(parts, config.part_rows, Progress("sampling")) as output:
        tokens = sum(len(answer.token_ids) for answer in sample(config, todo, engine, output))
    assert parts.counts()["rows"] == INSTRUCTIONS * CANDIDATES
    return tokens


def _plain(engine: Engine, prompts: Sequence[Prompt]) -> int:
    from vllm import SamplingParams

    given: list[Any] = [
        {"prompt_token_ids": list(prompt.ids), "multi_modal_data": {"image": list(prompt.pictures)}}
        for prompt in prompts
    ]
    params = SamplingParams(
        n=CANDIDATES, temperature=DECODING.temperature, max_tokens=DECODING.max_new_tokens, logprobs=0, seed=1
    )
    outputs = engine._llm.generate(given, params, use_tqdm=False)
    return sum(len(answer.token_ids) for output in outputs for answer in output.outputs)


def _timed(engine: Engine, action: Any) -> float:
    """Tokens a second, beginning with cold caches."""
    engine._llm.reset_prefix_cache()
    engine._llm.reset_mm_cache()
    engine._llm.llm_engine.reset_encoder_cache()
    began = time.perf_counter()
    tokens: int = action()
    return tokens / (time.perf_counter() - began)


def _config(output: Path, instructions: Source) -> SamplingConfig:
    return SamplingConfig(
        output=str(output),
        model=Source(uri="loaded"),
        instructions=instructions,
        candidates=CANDIDATES,
        decoding=DECODING,
        part_rows=PART_ROWS,
    )


def _instructions(folder: Path) -> Source:
    folder.mkdir()
    schema = pa.schema([("id", pa.string()), ("image", IMAGE), ("question", pa.string())])
    rows = [
        {"id": str(i), "image": {"bytes": picture(i, 320, 240), "path": None}, "question": QUESTION}
        for i in range(INSTRUCTIONS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "train.parquet")
    return Source(uri=str(folder))


if __name__ == "__main__":
    for ratio in run():
        print(f"{ratio.name}: ours {ratio.ours:.0f}, peer {ratio.peer:.0f}, ratio {ratio.ratio:.3f} ({ratio.goal})")
