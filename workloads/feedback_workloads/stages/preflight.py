"""What can be known of all models of an iteration before anything is computed: from their files without the weights.

`python -m feedback_workloads.stages.preflight --config FILE`, with the configuration of the first stage, looks alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from feedback_workloads.apis.client import Unreachable
from feedback_workloads.contract import (
    STAGE_CONFIG,
    BadInput,
    EvaluationConfig,
    LaterModel,
    PairingConfig,
    SamplingConfig,
    Temporary,
)
from feedback_workloads.engine import check_quantized
from feedback_workloads.models.families import check, check_pictures, check_trainable, family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.memory import check_served, check_trained, size_of
from feedback_workloads.models.sources import described
from feedback_workloads.models.verdicts import about
from feedback_workloads.process.commands import ended, run
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.stages.behind_apis import FIELDS, PROBE, check_labeler, check_splitter
from feedback_workloads.storage.artifacts import ArtifactStore

PROBED: Final = 64
"""Instructions whose prompts are measured before anything is sampled: more are no surer, and take seconds."""
QUESTION: Final = "Is there a dog in the picture? Please answer yes or no."
"""What is asked of a labeler to see whether it could read it; claims are longer or shorter by a few tokens."""
VERDICTS: Final = ("yes", "no")

Rows = Iterable[Instruction | Rejected]


def check_policy(config: SamplingConfig, family: Family, rows: Rows, pictures: int = 1) -> None:
    """Raise BadInput where the policy cannot be trained, or not on prompts such as the first of `rows`.

    A picture may have more tokens than a row by default: its family decides, and all pairs would be rejected. A row has
    up to `pictures`.
    """
    check_trainable(family, config.model.uri, lora=config.lora)
    check_pictures(family, pictures, "spec.model")
    lengths = _measured(rows, lambda row: family.conversation(row.messages, row.images).length)
    without = sum(length >= config.max_length for length in lengths)
    if without > config.max_rejected_fraction * len(lengths):
        longest = max(lengths)
        raise BadInput(
            f"{without} of the first {len(lengths)} prompts leave no room for an answer within spec.training.maxLength "
            f"{config.max_length}: with its picture, the longest has {longest} tokens; raise it to "
            f"{longest + config.decoding.max_new_tokens} or more, or make the pictures smaller"
        )


def check_room(config: SamplingConfig, family: Family, card: int | None) -> None:
    """Raise BadInput where the policy cannot be sampled from, or not be trained, on cards of `card` bytes.

    None of them, on a processor, means that nothing is known.
    """
    if card is None or (size := size_of(family)) is None:
        return
    policy = f"spec.model {config.model.uri}"
    check_served(policy, "spec.sampling", size, config.engine, card)
    if config.trained_on is not None:
        check_trained(policy, size, config.trained_on, card, lora=config.lora)


def check_those_in_reach(
    config: SamplingConfig, store: ArtifactStore, shard: int, card: int | None, pictures: int
) -> None:
    """Check the models of later stages, but for those that this stage's pods may not read; theirs may.

    `card` are the bytes of a card of this stage's, None where there is none; rows have up to `pictures`.
    """
    for model in config.later_models:
        try:
            folder = described(store, model.source)
        except (BadInput, Temporary) as error:
            sys.stderr.write(f"sampling: {model.field} was not looked at: {error}\n")
            continue
        if folder:
            check_later(model, folder, store.instructions(config.instructions, shard, config.shards), card, pictures)
            if model.engine is not None:
                check_quantized(family_of(folder, model.source), config.precision)


def check_apis(config: SamplingConfig) -> None:
    """Ask one question of each API of a later stage. Raises BadInput where it does not answer by what is wrong.

    One that has too much to do for now is let pass.
    """
    checks: list[Callable[[], None]] = []
    if config.splitter_api:
        checks.append(partial(check_splitter, config.splitter_api, PROBE))
    if config.labeler_api:
        checks.append(partial(check_labeler, config.labeler_api, PROBE))
    for check_api in checks:
        try:
            check_api()
        except Unreachable as error:
            raise BadInput(str(error)) from error
        except Temporary as error:
            sys.stderr.write(f"sampling: {error}\n")


def check_later(model: LaterModel, folder: Path, rows: Rows, card: int | None = None, pictures: int = 1) -> None:
    """Raise BadInput where a model of a later stage, whose files are in `folder`, cannot do its part.

    A labeler is asked about the pictures of the first of `rows`; a row has up to `pictures`. With `card`, the bytes of
    one of this stage's, it has to fit that where its own are of that kind.
    """
    family = family_of(folder, model.source)
    check(family, model.capability, model.source.uri)
    if card is not None and model.engine is not None and (size := size_of(family)):
        section = ".".join(model.field.split(".")[:2])
        check_served(f"{model.field} {model.source.uri}", section, size, model.engine, card)
    if model.capability == "split":
        family.text_prompt(QUESTION)  # it has a tokenizer and a chat template
        return
    for word in VERDICTS:
        if not family.word_ids(word):
            raise BadInput(
                f"{model.field} {model.source.uri} has no token that is {word!r} alone, so p({word}) cannot be read; "
                "name another labeler"
            )
    check_pictures(family, pictures, model.field)
    lengths = _measured(rows, lambda row: about(family, row.images)(QUESTION).length)
    if model.max_model_len is not None and max(lengths, default=0) >= model.max_model_len:
        raise BadInput(
            f"{model.field.rpartition('.')[0]}.maxModelLen {model.max_model_len} is too short for {model.source.uri}: "
            f"with its picture, a question has {max(lengths)} tokens; raise it to {2 * max(lengths)} or leave it out"
        )


def _measured(rows: Rows, length: Callable[[Instruction], int]) -> list[int]:
    """Tokens of the prompts about the first rows, pictures included, but for those that cannot be asked."""
    lengths: list[int] = []
    for row in islice(rows, PROBED):
        if isinstance(row, Instruction):
            try:
                lengths.append(length(row))
            except BadRow:
                continue
    return lengths


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the policy and at all later models, and say of each that it will do; one out of reach is an error."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.stages.preflight", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="configuration of the first stage, as JSON")
    config = STAGE_CONFIG.validate_json(parser.parse_args(arguments).config.read_text())
    store = ArtifactStore.from_environment()
    if isinstance(config, PairingConfig):
        return ended("check", partial(_check_published, config, store))
    if isinstance(config, EvaluationConfig):
        return ended("check", partial(_check_evaluated, config, store))
    assert isinstance(config, SamplingConfig), f"{config.stage} is the first stage of no iteration"
    return ended("check", partial(_check, config, store))


def _check_published(config: PairingConfig, store: ArtifactStore) -> None:
    """Look at the policy of an iteration whose pairs were made elsewhere."""
    assert config.published, "pairing is the first stage of no other"
    model = config.published.model
    if folder := described(store, model):
        check_trainable(family_of(folder, model), model.uri, lora=config.lora)
    sys.stdout.write(f"spec.model {model.uri} can be trained\n")


def _check_evaluated(config: EvaluationConfig, store: ArtifactStore) -> None:
    """Look at the model of an iteration that trains nothing."""
    if folder := described(store, config.model):
        check(family_of(folder, config.model), "sample", config.model.uri)
    sys.stdout.write(f"spec.model {config.model.uri} can sample\n")


def _check(config: SamplingConfig, store: ArtifactStore) -> None:
    pictures = store.survey(config.instructions).most_pictures
    if folder := described(store, config.model):
        check_policy(config, family_of(folder, config.model), store.instructions(config.instructions), pictures)
    sys.stdout.write(f"spec.model {config.model.uri} can be trained\n")
    for model in config.later_models:
        if folder := described(store, model.source):
            check_later(model, folder, store.instructions(config.instructions), pictures=pictures)
        sys.stdout.write(f"{model.field} {model.source.uri} can {model.capability}\n")
    check_apis(config)
    for stage, api in (("splitting", config.splitter_api), ("labeling", config.labeler_api)):
        if api:
            sys.stdout.write(f"{FIELDS[stage]} {api.url} answers as {api.model}\n")


if __name__ == "__main__":
    run(main)
