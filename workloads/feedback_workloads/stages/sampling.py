"""sampling: several answers to each instruction, drawn from the policy under one decoding (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from feedback_workloads.contract import SamplingConfig, shard_uri
from feedback_workloads.engine import Draw, Engine, Prompt, Sampled, card_memory
from feedback_workloads.models.families import family_of
from feedback_workloads.models.sources import fetch
from feedback_workloads.process.outcome import Outcome, check_rejected
from feedback_workloads.rows.conversations import asked
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import SAMPLES
from feedback_workloads.stages.ordered import OrderedParts, stored_table
from feedback_workloads.stages.preflight import check_apis, check_policy, check_room, check_those_in_reach

if TYPE_CHECKING:
    import pyarrow as pa

    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore

Key = tuple[str, str, int]
"""Id and question of the instruction, number of the candidate."""


def run(config: SamplingConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write SAMPLES: `candidates` answers to each instruction of this shard.

    Raises BadInput where a later stage could not train the policy, or has a model that cannot do its part. Rejects
    instructions whose picture or question the policy cannot read, and answers that are all thought. Metrics:
    `mean_tokens` of an answer, `length_stops` (the share of answers that were cut at max_new_tokens), and `seeded`, 1.0
    where the engine repeats an answer from its seed.
    """
    progress.phase("reading instructions")
    output_uri = shard_uri(config, shard)
    ids = [row.id for row in store.instructions(config.instructions, shard, config.shards)]
    metrics: dict[str, float] = {}
    with store.append(output_uri, SAMPLES) as parts:
        finished = parts.finished_ids()
        progress.start(len(ids), done=sum(id in finished for id in ids))
        if not finished.issuperset(ids):
            if config.labeler_api or config.splitter_api:
                progress.phase("asking the APIs of later stages")
                check_apis(config)
            progress.phase("loading the policy")
            family = family_of(fetch(store, config.model, config.output, progress.phase), config.model)
            pictures = store.survey(config.instructions).most_pictures
            check_policy(config, family, store.instructions(config.instructions, shard, config.shards), pictures)
            card = card_memory()
            check_room(config, family, card)
            check_those_in_reach(config, store, shard, card, pictures)
            rows = store.instructions(config.instructions, shard, config.shards)
            todo = (row for row in rows if row.id not in finished)
            check = partial(check_rejected, config, most=len(ids) * config.candidates)
            with (
                Engine.load(family, config.engine, config.precision, config.seed) as engine,
                OrderedParts(parts, config.part_rows, progress, check=check) as output,
            ):
                metrics["seeded"] = float(engine.repeats())
                progress.phase("drawing answers")
                for answer in sample(config, todo, engine, output):
                    progress.count("tokens", len(answer.token_ids))
        metrics |= measure(stored_table(store, output_uri, parts.files(), SAMPLES, ["token_ids", "finish_reason"]))
    return Outcome(parts.files(), parts.counts(), metrics)


def sample(
    config: SamplingConfig,
    todo: Iterable[Instruction | Rejected],
    engine: Engine,
    output: OrderedParts,
) -> Iterator[Sampled]:
    """Answer the instructions in one stream of requests, so that the engine need not wait where a part ends."""
    requests = candidates(config, todo, engine, output)
    for key, answer in engine.sample(requests, config.decoding):
        try:
            output.add(samples_row(config, key, answer, engine.family.answer(answer.token_ids)))
        except BadRow as bad:
            id, _, candidate = key
            output.reject(Rejected(id, candidate, bad.reason, bad.detail))
        yield answer


def candidates(
    config: SamplingConfig,
    todo: Iterable[Instruction | Rejected],
    engine: Engine,
    output: OrderedParts,
) -> Iterator[tuple[Key, Prompt, Draw]]:
    """One request a candidate, those of one instruction in a row; rejects the instructions that cannot be asked."""
    for instruction in todo:
        if isinstance(instruction, Rejected):
            output.reject(instruction)
            continue
        try:
            chats = [asked(text, len(instruction.images)) for text in config.prompts] or [instruction.messages]
            prompts = [engine.family.conversation(chat, instruction.images) for chat in chats]
            for prompt in prompts:
                engine.check(prompt)
        except BadRow as bad:
            output.reject(Rejected(instruction.id, None, bad.reason, bad.detail))
            continue
        output.begin(instruction.id, config.candidates)
        for candidate in range(config.candidates):
            prompt = prompts[candidate % len(prompts)]
            yield (instruction.id, instruction.question, candidate), prompt, draw(config, instruction.id, candidate)


def draw(config: SamplingConfig, id: str, candidate: int) -> Draw:
    """Seed and temperature of one candidate; only the ablation of deconfounding has several temperatures."""
    temperatures = config.temperatures or (config.decoding.temperature,)
    return Draw(row_seed(config.seed, id, candidate), temperatures[candidate % len(temperatures)])


def samples_row(config: SamplingConfig, key: Key, answer: Sampled, text: str) -> dict[str, Any]:
    """The row of SAMPLES for one candidate."""
    id, question, candidate = key
    drawn = draw(config, id, candidate)
    return {
        "id": id,
        "candidate": candidate,
        "question": question,
        "answer": text,
        "token_ids": answer.token_ids,
        "logprobs": answer.logprobs,
        "temperature": drawn.temperature,
        "seed": drawn.seed,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
    }


def measure(answers: pa.Table) -> dict[str, float]:
    """Figures of the answers; empty where there is none."""
    if not answers.num_rows:
        return {}
    return {
        "mean_tokens": pc.mean(pc.list_value_length(answers["token_ids"])).as_py(),
        "length_stops": pc.mean(pc.equal(answers["finish_reason"], "length")).as_py(),
    }
