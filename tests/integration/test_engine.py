"""The engine against forward passes of transformers over the same tokens and pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor
from peft import PeftModel, get_peft_model
from transformers import LlavaForConditionalGeneration

from feedback_workloads.contract import BadInput, Decoding, EngineConfig
from feedback_workloads.engine import Draw, Engine, Prompt, Sampled
from feedback_workloads.engine.arguments import ADAPTER_CONFIG, Adapter
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.rows.rejected import BadRow
from tests.integration.models import picture, tiny_llava

TOLERANCE = 1e-3  # nats a token; measured: 1e-6
SETTINGS = EngineConfig(max_model_len=512, max_num_seqs=32)
DECODING = Decoding(temperature=0.7, max_new_tokens=24)
QUESTIONS = ("what is it?", "Is there a red block? Please answer yes or no.")

YES, NO = ("yes", "Yes", "Ġyes", "ĠYes"), ("no", "No", "Ġno", "ĠNo")

Key = tuple[int, int]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_llava(folder / "first", seed=0), tiny_llava(folder / "second", seed=1)


@pytest.fixture(scope="module")
def engine(models: tuple[Path, Path]) -> Iterator[Engine]:
    """On a machine without a C++ compiler, as it is in the images."""
    with inductor.patch({"cpp.cxx": ("no-compiler",)}), Engine.load(family_of(models[0]), SETTINGS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def family(models: tuple[Path, Path]) -> Family:
    return family_of(models[0])


@pytest.fixture(scope="module")
def prompts(family: Family) -> Mapping[int, Prompt]:
    return {
        i: asked(family, family.prompt_ids(QUESTIONS[i % 2]), picture(i, 80, 40 + 10 * i), str(i)) for i in range(4)
    }


def asked(family: Family, ids: Sequence[int], data: bytes, key: str) -> Prompt:
    """About one picture, which the engine knows by `key`."""
    (shown,) = family.show((data,))
    return Prompt(ids, (replace(shown, key=key),))


@pytest.fixture(scope="module")
def answers(engine: Engine, prompts: Mapping[int, Prompt], family: Family) -> Mapping[Key, Sampled]:
    return sampled(engine, prompts, family)


def sampled(engine: Engine, prompts: Mapping[int, Prompt], family: Family) -> dict[Key, Sampled]:
    requests = (((i, c), prompt, Draw(1000 * i + c, 0.7)) for i, prompt in prompts.items() for c in range(5))
    return dict(engine.sample(requests, DECODING))


def forward(
    model: Path, prompts: Mapping[int, Prompt], answers: Mapping[Key, Sampled], family: Family
) -> dict[Key, list[float]]:
    """Log-probabilities of the answers by transformers."""
    network = load(model)
    found = {}
    for key, answer in answers.items():
        prompt = prompts[key[0]]
        ids = family.expand(prompt.ids, *prompt.pictures)
        with torch.no_grad():
            logits = network(
                input_ids=torch.tensor([[*ids, *answer.token_ids]]),
                **family.features(*prompt.pictures),
            ).logits[0]
        logps = logits.log_softmax(-1)
        found[key] = [logps[len(ids) - 1 + i, token].item() for i, token in enumerate(answer.token_ids)]
    return found


def load(weights: Path) -> torch.nn.Module:
    """A full checkpoint, or an adapter on its base."""
    if not (weights / ADAPTER_CONFIG).exists():
        return LlavaForConditionalGeneration.from_pretrained(weights).eval()
    base = json.loads((weights / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(base), weights).eval()


def farthest(ours: Mapping[Key, object], theirs: Mapping[Key, object]) -> float:
    return max(abs(a - b) for key in ours for a, b in zip(ours[key], theirs[key], strict=True))  # type: ignore[call-overload]


def test_sampled_log_probabilities_equal_a_forward_pass(models, prompts, answers, family) -> None:
    theirs = forward(models[0], prompts, answers, family)
    assert farthest({key: answer.logprobs for key, answer in answers.items()}, theirs) < TOLERANCE


def test_given_answers_are_scored_as_they_were_sampled(engine, prompts, answers) -> None:
    scores = dict(engine.score((key, prompts[key[0]], answer.token_ids) for key, answer in answers.items()))
    assert farthest(scores, {key: answer.logprobs for key, answer in answers.items()}) < TOLERANCE


def test_seeds_make_answers_repeatable_and_different(engine, prompts, answers, family) -> None:
    again = sampled(engine, prompts, family)
    assert {key: answer.token_ids for key, answer in again.items()} == {
        key: answer.token_ids for key, answer in answers.items()
    }
    assert len({answers[0, c].token_ids for c in range(5)}) > 1


def test_a_banned_token_is_never_sampled(answers, family) -> None:
    assert all(family.image_token_id not in answer.token_ids for answer in answers.values())


def test_yes_and_no_are_full_vocabulary_probabilities(engine, models, prompts, family) -> None:
    verdicts = dict(engine.yes_no(prompts.items()))
    network = LlavaForConditionalGeneration.from_pretrained(models[0]).eval()
    vocabulary = family.tokenizer.get_vocab()
    for i, prompt in prompts.items():
        with torch.no_grad():
            logits = network(
                input_ids=torch.tensor([family.expand(prompt.ids, *prompt.pictures)]),
                **family.features(*prompt.pictures),
            ).logits[0, -1]
        expected = logits.softmax(-1)
        for found, words in ((verdicts[i].p_yes, YES), (verdicts[i].p_no, NO)):
            assert found == pytest.approx(sum(expected[vocabulary[word]].item() for word in words), abs=1e-5)


def test_one_prefix_for_all_questions_about_a_picture(engine, family) -> None:
    questions = [f"Is block {n} red? Please answer yes or no." for n in range(8)]
    prompts = (asked(family, family.prompt_ids(question), picture(99), "99") for question in questions)
    verdicts = dict(engine.yes_no(enumerate(prompts)))
    assert sum(verdict.cached_tokens > 0 for verdict in verdicts.values()) >= len(questions) - 1


def test_swapped_weights_answer_as_if_freshly_loaded(engine, models, prompts, answers, family) -> None:
    given = [(key, prompts[key[0]], answer.token_ids) for key, answer in answers.items()]
    for model in (models[1], models[0]):
        engine.use(model)
        assert farthest(dict(engine.score(given)), forward(model, prompts, answers, family)) < TOLERANCE


def test_prompts_of_many_pictures_at_once_keep_their_seeds(engine, family) -> None:
    """More tokens than one step takes: a prompt that vLLM spread over two steps would end the engine on a CPU."""
    prompts = {i: family.prompt("why " * 60, picture(200 + i)) for i in range(40)}
    step = engine._llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    assert sum(len(family.expand(prompt.ids, *prompt.pictures)) for prompt in prompts.values()) > step
    first, again = (sampled(engine, prompts, family) for _ in range(2))
    assert {key: answer.token_ids for key, answer in first.items()} == {
        key: answer.token_ids for key, answer in again.items()
    }
    assert engine.repeats()


def test_an_answer_up_to_the_last_position_can_be_scored(engine, models, family) -> None:
    prompt = family.prompt("why " * 100, picture(1))
    room = engine.max_model_len - len(family.expand(prompt.ids, *prompt.pictures))
    requests = (((0, seed), prompt, Draw(seed, 1.0)) for seed in range(8))
    answers = dict(engine.sample(requests, Decoding(max_new_tokens=4096)))
    longest = max(len(answer.token_ids) for answer in answers.values())
    assert longest == room
    scores = dict(engine.score((key, prompt, answer.token_ids) for key, answer in answers.items()))
    assert farthest(scores, {key: answer.logprobs for key, answer in answers.items()}) < TOLERANCE
    assert farthest(scores, forward(models[0], {0: prompt}, answers, family)) < TOLERANCE


@pytest.mark.parametrize("words", [125, 2000])
def test_a_prompt_that_is_too_long_is_a_bad_row(engine, family, words: int) -> None:
    with pytest.raises(BadRow) as refused:
        engine.check(family.prompt("why " * words, picture(0)))
    assert refused.value.reason == "prompt-too-long"


def test_a_question_that_is_too_long_leaves_the_picture_to_those_that_are_not(engine, family) -> None:
    """It fits before its picture is expanded. Rendered and not sent, it would end the engine at the next question."""
    data, room = picture(77), engine.max_model_len
    short, filler = family.prompt("what?", data), "?" * (room - len(family.prompt_ids("what?")) - 8)
    long = family.prompt("what?" + filler, data)
    assert len(long.ids) < room < long.length
    with pytest.raises(BadRow) as refused:
        engine.check(long)
    assert refused.value.reason == "prompt-too-long"
    engine.check(short)
    ((key, verdict),) = engine.yes_no([("next", short)])
    assert (key, verdict.prompt_tokens) == ("next", short.length)


def test_leaving_early_drops_what_is_unfinished(engine, prompts, family) -> None:
    requests = ((n, prompts[n % 4], Draw(n, 0.7)) for n in range(100))
    for _ in engine.sample(requests, DECODING):
        break
    assert engine._llm.llm_engine.get_num_unfinished_requests() == 0
    assert len(sampled(engine, prompts, family)) == 20


def test_requests_may_follow_from_answers(engine, prompts) -> None:
    waiting = [3, 2, 1]

    class Countdown(Iterator[tuple[int, Prompt, Draw]]):
        def __next__(self) -> tuple[int, Prompt, Draw]:
            if not waiting:
                raise StopIteration
            number = waiting.pop()
            return number, prompts[0], Draw(number, 0.7)

    order = []
    for number, _ in engine.sample(Countdown(), DECODING):
        order.append(number)
        if number:
            waiting.append(number - 1)
    assert Counter(order) == {0: 3, 1: 3, 2: 2, 3: 1}


def test_the_model_sees_the_same_pixels_as_the_trainer(engine, prompts, family) -> None:
    """What vLLM feeds the vision tower, against Preprocessor.pixel_values, for pictures that are not square."""
    seen: list[torch.Tensor] = []

    def watch(model: torch.nn.Module) -> None:
        model.vision_tower.register_forward_pre_hook(
            lambda _, args, kwargs: seen.extend([*args, *kwargs.values()]), with_kwargs=True
        )

    engine._llm.apply_model(watch)
    fresh = asked(family, prompts[0].ids, picture(7, 96, 50), "never seen before")
    dict(engine.yes_no([(0, fresh)]))
    pixels = [value for value in seen if isinstance(value, torch.Tensor) and value.dim() == 4]
    assert len(pixels) == 1
    assert torch.equal(pixels[0].float(), family.features(*fresh.pictures)["pixel_values"])


# ── LoRA: an engine of its own, loaded once the others are closed ────────────────────────────────────────────────────


def test_an_adapter_answers_in_turn_with_its_base(models, prompts, family, answers, tmp_path: Path) -> None:
    adapters = [random_adapter(models[0], tmp_path / str(seed), seed) for seed in (1, 2)]
    theirs = {weights: forward(weights, prompts, answers, family) for weights in (models[0], *adapters)}
    assert farthest(theirs[adapters[0]], theirs[models[0]]) > 0.1
    given = [(key, prompts[key[0]], answer.token_ids) for key, answer in answers.items()]
    with Engine.load(family, SETTINGS, adapter=adapters[0]) as engine:
        for weights in (adapters[0], models[0], adapters[1], adapters[0], models[0]):
            engine.use(weights)
            assert farthest(dict(engine.score(given)), theirs[weights]) < TOLERANCE
            fresh = sampled(engine, prompts, family)
            expected = forward(weights, prompts, fresh, family)
            assert farthest({key: answer.logprobs for key, answer in fresh.items()}, expected) < TOLERANCE


def random_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter as training saves it, with random weights."""
    from feedback_workloads.contract import LoRA
    from feedback_workloads.training.policy_model import lora_config, save_adapter

    network = LlavaForConditionalGeneration.from_pretrained(base)
    torch.manual_seed(seed)
    adapted = get_peft_model(network, lora_config(family_of(base), network, LoRA(rank=4, alpha=8)))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(adapted, None, str(base), folder)
    return folder


def test_an_adapter_of_more_than_the_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "modules_to_save": ["multi_modal_projector"]}')
    with pytest.raises(BadInput, match="not a plain LoRA adapter"):
        Adapter.read(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(BadInput, match=str(tmp_path)):
        Engine.load(family_of(tmp_path), SETTINGS)
