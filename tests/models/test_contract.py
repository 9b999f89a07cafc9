"""What holds for every family: transformers, vLLM and the trainer compute one model. One parametrised contract.

Nothing here knows a family: what is compared with is the family's own processor and transformers' plain forward pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from feedback_workloads.contract import BadInput, Decoding, EngineConfig, ExitCode, LoRA, Manifest, Source
from feedback_workloads.engine import Draw, Engine, Prompt, Sampled
from feedback_workloads.models import verdicts
from feedback_workloads.models.adapters import merge
from feedback_workloads.models.families import check_pictures, check_trainable, family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.memory import size_of
from feedback_workloads.models.saving import save_full
from feedback_workloads.models.sources import described, fetch
from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.training import policy_model
from feedback_workloads.training.batches.collator import PictureCollator
from feedback_workloads.training.batches.cropped import crop
from feedback_workloads.training.batches.shared_prompt import take_pairs
from feedback_workloads.training.trainer import Forward
from tests.integration.models import picture, tiny_llava
from tests.integration.training_runs import Study, study
from tests.models.builders import DECODERS, FAMILIES, Tiny
from tests.models.reference import (
    Chat,
    about,
    chat,
    load,
    logps,
    logps_in,
    of_answer,
    of_answer_in,
    processed,
    processed_chats,
)

TOLERANCE: Final = 1e-3  # nats a token, between vLLM and transformers; measured: 6e-6
EXACT: Final = 1e-4  # between two forward passes of transformers; measured: 4e-6
QUESTIONS: Final = ("what is it?", "Is there a red block?")
ANSWERS: Final = ("a red block at the top", "nothing that has a name")
PICTURES: Final = (picture(1, 120, 80), picture(2, 60, 150))
"""Of two aspect ratios."""

ALL: Final = {**FAMILIES, **DECODERS}
SHORT: Final = ("llava", "llava_next", "qwen3_vl", "llava, LFM2")
"""What is part of `make test`: three families, and a decoder that cannot share a row. All are in the long target."""
ADAPTED: Final = [name for name, tiny in FAMILIES.items() if tiny.lora]
"""Families whose adapters vLLM serves."""


def marked(names: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in names]


@dataclass(frozen=True)
class Model:
    """A family's tiny model."""

    tiny: Tiny
    folder: Path

    @cached_property
    def family(self) -> Family:
        return family_of(self.folder)

    def answers(self) -> list[list[int]]:
        """An answer to each question, as token ids that end."""
        encoded = (self.family.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS)
        return [[*ids, min(self.family.eos_ids)] for ids in encoded]


@pytest.fixture(scope="module", params=marked([*ALL]))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    tiny = ALL[request.param]
    return Model(tiny, tiny.build(tmp_path_factory.mktemp(request.param) / "model"))


def furthest(found: Sequence[Sequence[float]], expect: Sequence[Sequence[float]]) -> float:
    return max(
        abs(a - b) for ours, theirs in zip(found, expect, strict=True) for a, b in zip(ours, theirs, strict=True)
    )


# ── what the model is given ──────────────────────────────────────────────────────────────────────────────────────────


def test_ids_and_features_are_those_of_the_familys_own_processor(model: Model) -> None:
    family, theirs = model.family, processed(model.family, QUESTIONS, PICTURES)
    seen = [family.picture(data) for data in PICTURES]
    prompts = [family.prompt(question, data) for question, data in zip(QUESTIONS, PICTURES, strict=True)]
    expanded = [family.expand(prompt.ids, image) for prompt, image in zip(prompts, seen, strict=True)]
    masks = theirs["attention_mask"].bool()
    assert expanded == [row[mask].tolist() for row, mask in zip(theirs["input_ids"], masks, strict=True)]
    assert [prompt.length for prompt in prompts] == list(map(len, expanded))
    features = family.collate([family.features(image) for image in seen])
    assert features.keys() == theirs.keys() - {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
    for name, value in features.items():
        assert torch.equal(value, theirs[name]), name
    different = len({prompt.shown[0].tokens for prompt in prompts}) > 1
    assert different != model.tiny.one_size, "the two pictures show nothing if they have as many tokens"


def conversation(model: Model) -> Chat:
    """An earlier turn, with a picture of its own where the family takes two of them."""
    one, two = about(QUESTIONS[0], PICTURES[0]), about(QUESTIONS[1], PICTURES[1])
    said = {"role": "assistant", "content": [{"type": "text", "text": ANSWERS[0]}]}
    if model.tiny.several:
        return Chat([*one.messages, said, *two.messages], PICTURES)
    return Chat([*one.messages, said, model.family.message(QUESTIONS[1])], PICTURES[:1])


def test_pictures_and_turns_are_those_of_the_familys_own_processor(model: Model) -> None:
    family, asked = model.family, conversation(model)
    theirs = processed_chats(family, [asked])
    prompt = family.conversation(asked.messages, asked.pictures)
    expanded = family.expand(prompt.ids, *prompt.pictures)
    assert expanded == theirs["input_ids"][0].tolist()
    assert prompt.length == len(expanded)
    features = family.collate(list(map(family.features, prompt.pictures)))
    for name, value in features.items():
        if value.shape == theirs[name].shape:
            assert torch.equal(value, theirs[name]), name
        else:  # a processor may lay the tiles of a row behind each other, and what is zero throughout is no tile
            assert torch.equal(tiles(value), tiles(theirs[name])), name


def tiles(of: torch.Tensor) -> torch.Tensor:
    """Those that a model looks at, of pictures or rows that are filled up: (tiles, ...)."""
    each = of.flatten(0, 1)
    return each[each.flatten(1).ne(0).any(1)]


def test_who_takes_one_picture_says_so(model: Model) -> None:
    family = model.family
    check_pictures(family, 1, "spec.model")
    assert ("several-pictures" in family.capabilities) == model.tiny.several
    if model.tiny.several:
        check_pictures(family, 2, "spec.model")
        return
    with pytest.raises(BadRow, match="too-many-pictures: there are 2 pictures"):
        family.conversation(claim("?", 2), PICTURES)
    with pytest.raises(BadInput, match=r"a row of the data has 2 pictures, and spec.model .* takes one alone"):
        check_pictures(family, 2, "spec.model")


def test_no_question_stands_for_a_picture(model: Model) -> None:
    for token in model.family.tokenizer.convert_ids_to_tokens(list(model.family.banned_ids)):
        with pytest.raises(BadRow, match="picture-token"):
            model.family.prompt_ids(f"What is an {token}?")


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


CHATS: Final = tuple(map(about, QUESTIONS, PICTURES))
"""One picture each."""


def pairs(model: Model, chats: Sequence[Chat] = CHATS) -> list[dict[str, Any]]:
    """Rows of `dataset.PREPARED`: answers of different lengths, that begin alike in the first pair."""
    family = model.family
    answers = [[11, 12, 13, 14], [11, 12, 15], [16, 17], [18, 19, 20, 21, 22, 23]]
    rows = []
    for number, one in enumerate(chats):
        chosen, rejected = ([*answers[2 * number + side], min(family.eos_ids)] for side in (0, 1))
        prompt_ids = family.expand(family.conversation_ids(one.messages), *map(family.picture, one.pictures))
        rows.append(
            {
                "id": f"pair-{number}", "pictures": [*one.pictures], "prompt_ids": prompt_ids, "chosen_ids": chosen,
                "rejected_ids": rejected, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0,
            }
        )  # fmt: skip
    return rows


def for_pairs(family: Family) -> PreTrainedModel:
    """The model as the trainer prepares it."""
    network = policy_model.load(family, torch.float32)
    take_pairs(network, family, max_length=512)
    add_fused_lm_head(network)
    return network


def by_training(
    model: Model, network: PreTrainedModel, rows: Sequence[Mapping[str, Any]], crop_seed: int | None = None
) -> list[torch.Tensor]:
    """Log-probabilities of each answer's tokens, chosen sides first, as the trainer has them.

    With `crop_seed`, those of the chosen sides under pieces of their pictures follow.
    """
    collator = PictureCollator(pad_token_id=model.family.pad_id, family=model.family, crop_seed=crop_seed)
    batch = collator([dict(row) for row in rows])
    mask = batch.pop("completion_mask").bool()
    given = {name: value for name, value in batch.items() if not name.startswith("ref_")}
    labels = batch["input_ids"].masked_fill(~mask, -100)
    forward = Forward(network, cropped=crop_seed is not None)
    forward(**given, labels=labels, fused_lm_head=True)
    found, masks = [*forward.log_probs], [*mask]
    if forward.cropped is not None:
        found, masks = [*found, *forward.cropped], [*masks, *masks[: len(rows)]]
    return [row[one[1:]] for row, one in zip(found, masks, strict=True)]


def by_rows(
    model: Model, network: PreTrainedModel, rows: Sequence[Mapping[str, Any]], chats: Sequence[Chat] = CHATS
) -> list[torch.Tensor]:
    """The same, each answer in a forward pass of its own, behind the turns of `chats` and the pictures of its row."""
    found = []
    for side in ("chosen_ids", "rejected_ids"):
        for row, one in zip(rows, chats, strict=True):
            answer = torch.tensor(row[side])
            all_tokens = logps_in(network, model.family, Chat(one.messages, row["pictures"]), row[side])
            found.append(all_tokens[:-1].gather(-1, answer[:, None]).squeeze(-1))
    return found


def pieces_of(family: Family, row: Mapping[str, Any]) -> list[bytes]:
    """The pieces of a pair's pictures, encoded."""
    pieces = []
    for number, data in enumerate(row["pictures"]):
        stream = BytesIO()
        crop(family.picture(data), Random(f"0 {row['id']}{f' {number}' if number else ''}")).save(stream, "PNG")
        pieces.append(stream.getvalue())
    return pieces


def gradients(network: PreTrainedModel, found: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of a loss in which every token of every answer counts differently."""
    sum(((row * torch.linspace(-1, 2, len(row))).sum() * (i + 1) for i, row in enumerate(found)), start=0.0).backward()  # type: ignore[union-attr]
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


def test_a_pair_is_two_rows(model: Model) -> None:
    """Log-probabilities and gradients, with pictures of two shapes in one batch."""
    rows = pairs(model)
    plain = policy_model.load(model.family, torch.float32)
    expect = by_rows(model, plain, rows)
    trained = for_pairs(model.family)
    found = by_training(model, trained, rows)
    assert furthest([row.tolist() for row in found], [row.tolist() for row in expect]) < EXACT
    theirs, ours = gradients(plain, expect), gradients(trained, found)
    assert ours.keys() == theirs.keys()
    scale = max(value.abs().max().item() for value in theirs.values())
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], atol=1e-5 * scale, rtol=1e-3, msg=lambda text, at=name: f"{at}: {text}"
        )
    for name, parameter in trained.named_parameters():
        assert parameter.requires_grad == name.startswith(model.tiny.trained), name
    # What vision towers of LLaVA compute behind the layer that is looked at is never used.
    assert {name for name, parameter in trained.named_parameters() if parameter.requires_grad} == ours.keys()


def test_a_pair_about_several_pictures_is_two_rows(model: Model) -> None:
    """In one batch with a pair about one picture; the turns before the last are no part of what is learned.

    So are the pieces that mDPO's conditional term takes in their place.
    """
    chats = [conversation(model), CHATS[1]]
    rows = pairs(model, chats)
    plain = policy_model.load(model.family, torch.float32)
    pieces = [{**row, "pictures": pieces_of(model.family, row)} for row in rows]
    with torch.no_grad():
        under_pieces = by_rows(model, plain, pieces, chats)[: len(rows)]
    expect = by_rows(model, plain, rows, chats)
    trained = for_pairs(model.family)
    found = by_training(model, trained, rows)
    assert furthest([row.tolist() for row in found], [row.tolist() for row in expect]) < EXACT
    theirs, ours = gradients(plain, expect), gradients(trained, found)
    scale = max(value.abs().max().item() for value in theirs.values())
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], atol=1e-5 * scale, rtol=1e-3, msg=lambda text, at=name: f"{at}: {text}"
        )
    with torch.no_grad():
        cropped = by_training(model, trained, rows, crop_seed=0)[-len(rows) :]
    assert furthest([row.tolist() for row in cropped], [row.tolist() for row in under_pieces]) < EXACT


def test_its_size_is_known_from_its_config(model: Model) -> None:
    """What the first stage compares with a card, without the weights."""
    network = policy_model.load(model.family, torch.float32)
    size = size_of(model.family)
    assert size is not None
    assert size.weights == sum(parameter.numel() for parameter in network.parameters())
    assert size.trained == sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert size.trained < size.weights
    assert (size.kept > 0) == model.tiny.one_row


def test_a_chosen_answer_under_a_piece_of_its_picture(model: Model) -> None:
    """What mDPO's conditional term compares with: a piece has as many tokens as the whole, in any family."""
    rows = pairs(model)
    plain = policy_model.load(model.family, torch.float32)
    pieces = [{**row, "pictures": pieces_of(model.family, row)} for row in rows]
    under_pieces = by_rows(model, plain, pieces)[: len(rows)]
    expect = [row.tolist() for row in [*by_rows(model, plain, rows), *under_pieces]]
    assert furthest(expect[: len(rows)], expect[-len(rows) :]) > 10 * EXACT, "a piece is another picture"
    found = by_training(model, for_pairs(model.family), rows, crop_seed=0)
    assert furthest([row.tolist() for row in found], expect) < EXACT


def test_one_row_is_for_those_who_heed_its_mask(model: Model) -> None:
    """In one row, a decoder that hands on a state would tell the rejected answer of the chosen one."""
    assert ("share-prompts" in model.family.capabilities) == model.tiny.one_row
    if model.tiny.one_row:
        return
    heedless = Model(model.tiny, model.folder)
    heedless.__dict__["family"] = family = type(model.family)(model.folder, {**model.family.config, "text_config": {}})
    assert "share-prompts" in family.capabilities
    rows = pairs(model)
    found = by_training(heedless, for_pairs(family), rows)
    expect = by_rows(model, load(model.folder), rows)
    assert furthest([row.tolist() for row in found], [row.tolist() for row in expect]) > 0.01


# ── the whole way: trained by the stage, saved, and computed by vLLM ─────────────────────────────────────────────────


@dataclass(frozen=True)
class Trained:
    """A model trained in full, and where its family has adapters, those of one run on top of that checkpoint."""

    tiny: Tiny
    study: Study
    full: Path
    adapters: tuple[Path, ...] = ()

    @cached_property
    def model(self) -> Model:
        return Model(self.tiny, self.full)


@pytest.fixture(scope="module", params=marked([*FAMILIES]))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """By the stage, as it trains on a GPU but for the arithmetic: ZeRO-2, two pairs at once, activations recomputed."""
    tiny = FAMILIES[request.param]
    made = study(tmp_path_factory.mktemp(request.param), rows=8, build=tiny.build)
    how = {"epochs": 1, "per_device_batch_size": 2, "gradient_checkpointing": True}
    whole = made.start("full", zero_stage=2, **how)  # DeepSpeed can begin once in a process
    assert whole.wait() == ExitCode.DONE, whole.output
    full = whole.folder / "checkpoint-000002"
    if not tiny.lora:
        return Trained(tiny, made, full)
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    # Its pairs were not sampled from that checkpoint, so the references are recomputed.
    far = {"parity_limit": 10.0, "model": Source(uri=str(full))}
    run = made.run("adapter", checkpoints_per_epoch=2, lora=lora, **far, **how)
    return Trained(tiny, made, full, (run.folder / "checkpoint-000001", run.folder / "checkpoint-000002"))


@pytest.fixture(scope="module")
def engine(trained: Trained) -> Iterator[Engine]:
    """Loaded from the checkpoint's own folder, tokenizer, processor and template included."""
    settings = EngineConfig(max_model_len=512, max_num_seqs=16)
    adapter = trained.adapters[1] if trained.adapters else None
    with Engine.load(trained.model.family, settings, adapter=adapter) as loaded:
        yield loaded


def by_transformers(model: Model, network: PreTrainedModel) -> list[list[float]]:
    given = zip(QUESTIONS, PICTURES, model.answers(), strict=True)
    return [of_answer(network, model.family, *one) for one in given]


def by_vllm(engine: Engine, model: Model) -> list[Sequence[float]]:
    given = enumerate(zip(QUESTIONS, PICTURES, model.answers(), strict=True))
    requests = [(i, model.family.prompt(question, data), answer) for i, (question, data, answer) in given]
    return [found for _, found in sorted(engine.score(requests))]


def test_full_checkpoint(trained: Trained, engine: Engine) -> None:
    engine.use(trained.full)
    expect = by_transformers(trained.model, load(trained.full))
    assert furthest(by_vllm(engine, trained.model), expect) < TOLERANCE
    base = by_transformers(trained.model, load(trained.study.model))
    assert furthest(base, expect) > 10 * TOLERANCE, "training has moved the model"
    metrics = Manifest.model_validate_json((trained.full.parent / "manifest.json").read_bytes()).metrics
    assert metrics["parity_max_difference"] < EXACT, "the trainer's forward pass is the one that the pairs came from"


@pytest.mark.parametrize("trained", marked(ADAPTED), indirect=True)
def test_adapters(trained: Trained, engine: Engine) -> None:
    """Every checkpoint has an adapter of its own, and the model below it answers as before when it is off."""
    plain = by_transformers(trained.model, load(trained.full))
    answers = []
    for adapter in trained.adapters:
        engine.use(adapter)
        answers.append(by_vllm(engine, trained.model))
        assert furthest(answers[-1], by_transformers(trained.model, load(trained.full, adapter))) < TOLERANCE
    engine.use(trained.full)
    assert furthest(by_vllm(engine, trained.model), plain) < TOLERANCE
    assert furthest(answers[1], plain) > 2 * TOLERANCE, "training has moved the policy"
    assert not torch.equal(*(first_b(adapter) for adapter in trained.adapters))


def test_an_adapter_that_vllm_would_not_load_is_refused(model: Model) -> None:
    family = model.family
    assert ("lora" in family.capabilities) == (model.tiny.lora and model.tiny.one_row)
    check_trainable(family, "model", lora=False)
    if "lora" not in family.capabilities:
        with pytest.raises(BadInput, match="no adapter of it was seen to work in vLLM"):
            check_trainable(family, "model", lora=True)


def first_b(adapter: Path) -> torch.Tensor:
    """The first B matrix of an adapter; it starts at zero."""
    weights = load_file(adapter / "adapter_model.safetensors")
    return weights[min(name for name in weights if "lora_B" in name)]


def test_gradients_get_through_rounded_layers_after_a_pass_without_any(tmp_path: Path) -> None:
    """As the references take one, after which bitsandbytes would have its layers lie otherwise on some processors."""
    network = policy_model.load(family_of(tiny_llava(tmp_path / "model")), torch.float32, torch.device("cpu"))
    ids = torch.tensor([[31, 32, 33, 34]])

    def gradient() -> torch.Tensor:
        given = network.get_input_embeddings()(ids).detach().requires_grad_()
        network.train()(inputs_embeds=given).logits[..., 40].sum().backward()
        assert given.grad is not None
        return given.grad

    before = gradient()
    with torch.no_grad():
        network.eval()(input_ids=ids)
    torch.testing.assert_close(gradient(), before)


@pytest.mark.parametrize(
    "trained",
    [pytest.param(name, marks=() if name == SHORT[0] else pytest.mark.long) for name in ADAPTED],
    indirect=True,
)
def test_an_adapter_over_four_bits(trained: Trained, engine: Engine, tmp_path: Path) -> None:
    """QLoRA trains what LoRA does over the values that the weights are rounded to; it goes over the model as it is."""
    family, lora = trained.model.family, {"rank": 4, "alpha": 8, "dropout": 0.0}
    how = {"epochs": 1, "per_device_batch_size": 2, "gradient_checkpointing": True, "parity_limit": 10.0}
    run = trained.study.run("rounded", lora={**lora, "quantization": "nf4"}, model=Source(uri=str(trained.full)), **how)
    assert run.manifest.metrics["references_recomputed"] == 1.0
    assert abs(run.log[0]["reward_margin"]) < EXACT, "the reference is the rounded model"

    values = load(trained.full)
    for name, module in policy_model.load(family, torch.float32, nf4_on=torch.device("cpu")).named_modules():
        if isinstance(module, Linear4bit):
            values.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    save_full(values, values.state_dict(), family, tmp_path)
    same = trained.study.run("values", lora=lora, model=Source(uri=str(tmp_path)), reference="recomputed", **how)
    adapters = [load_file(one.folder / "checkpoint-000002" / "adapter_model.safetensors") for one in (run, same)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[1].items():  # TRL begins with matrices that were bfloat16 for a moment
        assert (adapters[0][name] - value).norm() < 0.05 * value.norm(), name

    engine.use(run.folder / "checkpoint-000002")
    expect = by_transformers(trained.model, load(trained.full, run.folder / "checkpoint-000002"))
    assert furthest(by_vllm(engine, trained.model), expect) < TOLERANCE
    assert furthest(expect, by_transformers(trained.model, load(trained.full))) > 2 * TOLERANCE, "it was trained"
    engine.use(trained.full)


@pytest.mark.parametrize("trained", marked(ADAPTED), indirect=True)
def test_merged_is_what_was_trained(trained: Trained, engine: Engine, tmp_path: Path) -> None:
    """An adapter merged into its base, saved as a checkpoint is: what a child iteration is given."""
    expect = by_transformers(trained.model, load(trained.full, trained.adapters[1]))
    merge(trained.full, trained.adapters[1], tmp_path)
    assert furthest(by_transformers(trained.model, load(tmp_path)), expect) < EXACT
    engine.use(tmp_path)
    assert furthest(by_vllm(engine, trained.model), expect) < TOLERANCE
    engine.use(trained.full)


@pytest.mark.parametrize("trained", marked(ADAPTED), indirect=True)
def test_a_child_is_given_the_merged_model(trained: Trained, tmp_path: Path) -> None:
    """Merged once, beside the artifacts of whoever came first; what it was trained from is in its manifest."""
    store, said, source = ArtifactStore(tmp_path / "cache"), list[str](), Source(uri=str(trained.adapters[1]))
    near = f"{tmp_path}/sampling/{'0' * 64}/shard-00000-of-00002"
    first, second = (fetch(store, source, near, said.append) for _ in range(2))
    assert (first == second, said) == (True, ["merging the adapter"])
    assert first.is_relative_to(tmp_path / "models")
    assert described(store, source) == described(store, Source(uri=str(trained.full)))
    expect = by_transformers(trained.model, load(trained.full, trained.adapters[1]))
    assert furthest(by_transformers(trained.model, load(first)), expect) < EXACT
    assert fetch(store, source, near, said.append, merged=False) == trained.adapters[1]


@pytest.mark.parametrize("trained", marked(ADAPTED), indirect=True)
def test_adapters_change_the_language_model_alone(trained: Trained) -> None:
    weights = load_file(trained.adapters[1] / "adapter_model.safetensors")
    assert all(name.startswith(f"base_model.model.{trained.tiny.language}") for name in weights)
    network = load(trained.full)
    config = policy_model.lora_config(trained.model.family, network, LoRA())
    assert len(weights) == 2 * len(config.target_modules or ())
    assert len(config.target_modules or ()) == 2 * 7, "attention and MLP of two layers"


def test_folders_are_complete(trained: Trained) -> None:
    """A full checkpoint has every file of its base but the weights as they were; an adapter names its base."""
    base = {file.name: file.read_bytes() for file in trained.study.model.iterdir()}
    full = {file.name: file.read_bytes() for file in trained.full.iterdir()}
    assert full.keys() == base.keys() | {"manifest.json"}
    same = base.keys() - {"config.json", "model.safetensors"}
    assert {name: full[name] for name in same} == {name: base[name] for name in same}
    names = [load_file(folder / "model.safetensors").keys() for folder in (trained.study.model, trained.full)]
    assert names[0] == names[1]
    for adapter in trained.adapters:
        assert {file.name for file in adapter.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "manifest.json",
        }  # fmt: skip
        described = json.loads((adapter / "adapter_config.json").read_text())
        manifest = Manifest.model_validate_json((adapter / "manifest.json").read_bytes())
        assert described["base_model_name_or_path"] == manifest.config["model"]["uri"] == str(trained.full)


# ── the engine ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sampled_log_probabilities_are_those_of_transformers(trained: Trained, engine: Engine) -> None:
    family, network = trained.model.family, load(trained.full)
    engine.use(trained.full)
    prompts = [family.prompt(question, data) for question, data in zip(QUESTIONS, PICTURES, strict=True)]
    requests = (((i, seed), prompt, Draw(seed, 0.7)) for i, prompt in enumerate(prompts) for seed in range(3))
    answers: dict[tuple[int, int], Sampled] = dict(engine.sample(requests, Decoding(max_new_tokens=16)))
    for (i, _), answer in answers.items():
        assert answer.prompt_tokens == prompts[i].length
        assert not set(answer.token_ids) & set(family.banned_ids)
    expect = [of_answer(network, family, QUESTIONS[i], PICTURES[i], answers[i, seed].token_ids) for i, seed in answers]
    assert furthest([answer.logprobs for answer in answers.values()], expect) < TOLERANCE
    scored = dict(engine.score((key, prompts[key[0]], answer.token_ids) for key, answer in answers.items()))
    assert furthest([scored[key] for key in answers], expect) < TOLERANCE


def test_several_pictures_and_turns_in_vllm(trained: Trained, engine: Engine) -> None:
    """Sampled, scored and judged as transformers has it; a claim is judged on all pictures, without the turns."""
    family, network, asked = trained.model.family, load(trained.full), conversation(trained.model)
    engine.use(trained.full)
    prompt = family.conversation(asked.messages, asked.pictures)
    requests = ((seed, prompt, Draw(seed, 0.7)) for seed in range(3))
    answers: dict[int, Sampled] = dict(engine.sample(requests, Decoding(max_new_tokens=16)))
    assert {answer.prompt_tokens for answer in answers.values()} == {prompt.length}
    expect = [of_answer_in(network, family, asked, answer.token_ids) for answer in answers.values()]
    assert furthest([answer.logprobs for answer in answers.values()], expect) < TOLERANCE
    scored = dict(engine.score((seed, prompt, answer.token_ids) for seed, answer in answers.items()))
    assert furthest([scored[seed] for seed in answers], expect) < TOLERANCE
    others = Chat(asked.messages, tuple(reversed(asked.pictures)))
    same = [of_answer_in(network, family, others, answer.token_ids) for answer in answers.values()]
    if trained.tiny.several:
        assert furthest(same, expect) > 10 * TOLERANCE, "which picture stands where is told apart"
    ((_, verdict),) = engine.yes_no([(0, verdicts.about(family, asked.pictures)(QUESTIONS[1]))])
    judged = Chat(claim(QUESTIONS[1], len(asked.pictures)), asked.pictures)
    with torch.no_grad():
        whole = logps_in(network, family, judged, [])[0].exp()
    assert verdict.p_yes == pytest.approx(whole[list(family.word_ids("yes"))].sum().item(), abs=1e-5)
    assert verdict.p_no == pytest.approx(whole[list(family.word_ids("no"))].sum().item(), abs=1e-5)


def claim(question: str, pictures: int) -> list[Mapping[str, Any]]:
    """What the labeler is asked about so many pictures."""
    return [{"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": question}]}]


def test_yes_and_no_are_probabilities_over_the_whole_vocabulary(trained: Trained, engine: Engine) -> None:
    family, network = trained.model.family, load(trained.full)
    engine.use(trained.full)
    asked = {i: (QUESTIONS[i], PICTURES[i]) for i in range(2)}
    verdicts = dict(engine.yes_no((i, family.prompt(*one, "verdict")) for i, one in asked.items()))
    for i, one in asked.items():
        with torch.no_grad():
            whole = logps(network, family, *one, [])[0].exp()
        for found, word in ((verdicts[i].p_yes, "yes"), (verdicts[i].p_no, "no")):
            ids = family.word_ids(word)
            assert len(ids) == 4, "Yes and yes, with a space before it and without"
            assert found == pytest.approx(whole[list(ids)].sum().item(), abs=1e-5)


def test_a_question_that_is_too_long_leaves_the_picture_to_those_that_are_not(trained: Trained, engine: Engine) -> None:
    """It fits before its picture is expanded. Rendered and not sent, it would end the engine at the next question."""
    family, data = trained.model.family, picture(77, 120, 80)
    short = family.prompt("what?", data)
    long = family.prompt("what?" + "?" * (engine.max_model_len - len(short.ids) - 1), data)
    assert len(long.ids) < engine.max_model_len <= long.length
    with pytest.raises(BadRow) as refused:
        engine.check(long)
    assert refused.value.reason == "prompt-too-long"
    engine.check(short)
    ((key, verdict),) = engine.yes_no([("next", short)])
    assert (key, verdict.prompt_tokens) == ("next", short.length)


def test_a_prompt_of_text_alone(trained: Trained, engine: Engine) -> None:
    """What a splitter is asked: no picture, and the template's own words."""
    family = trained.model.family
    prompt = family.text_prompt("List the facts.")
    assert prompt == Prompt(prompt.ids)
    bos = family.tokenizer.bos_token  # written by the template, or by the tokenizer
    text, expect = family.tokenizer.decode(prompt.ids), chat_without_picture(family, "List the facts.")
    assert text.count(bos or "nothing") == (1 if bos else 0)
    # But for spaces, which a tokenizer may put behind special tokens.
    assert text.removeprefix(bos or "").split() == expect.removeprefix(bos or "").split()
    ((_, answer),) = engine.sample([(0, prompt, Draw(0, 1.0))], Decoding(max_new_tokens=4))
    assert answer.prompt_tokens == len(prompt.ids)


def chat_without_picture(family: Family, text: str) -> str:
    asked = chat(family, text)
    alone = family.processor.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    assert asked != alone
    return str(alone)
