"""The engine against forward passes of transformers over the same tokens and pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from feedback_workloads.contract import Decoding
from feedback_workloads.contract import Engine as Settings
from feedback_workloads.engine import Answer, Draw, Engine, Prompt
from feedback_workloads.preprocess import Preprocessor
from tests.integration.models import picture, tiny_llava

TOLERANCE = 1e-3  # nats a token; measured: 1e-6
SETTINGS = Settings(max_model_len=512, max_num_seqs=32)
DECODING = Decoding(temperature=0.7, max_new_tokens=24)
QUESTIONS = ("what is it?", "Is there a red block? Please answer yes or no.")

Key = tuple[int, int]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_llava(folder / "first", seed=0), tiny_llava(folder / "second", seed=1)


@pytest.fixture(scope="module")
def engine(models: tuple[Path, Path]) -> Iterator[Engine]:
    with Engine.load(models[0], SETTINGS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def preprocessor(models: tuple[Path, Path]) -> Preprocessor:
    return Preprocessor.from_directory(models[0])


@pytest.fixture(scope="module")
def prompts(preprocessor: Preprocessor) -> Mapping[int, Prompt]:
    return {
        i: Prompt(preprocessor.prompt_ids(QUESTIONS[i % 2]), preprocessor.picture(picture(i, 80, 40 + 10 * i)), str(i))
        for i in range(4)
    }


@pytest.fixture(scope="module")
def answers(engine: Engine, prompts: Mapping[int, Prompt], preprocessor: Preprocessor) -> Mapping[Key, Answer]:
    return sampled(engine, prompts, preprocessor)


def sampled(engine: Engine, prompts: Mapping[int, Prompt], preprocessor: Preprocessor) -> dict[Key, Answer]:
    requests = (((i, c), prompt, Draw(1000 * i + c, 0.7)) for i, prompt in prompts.items() for c in range(5))
    return dict(engine.sample(requests, DECODING, banned=(preprocessor.image_token_id,)))


def forward(
    model: Path, prompts: Mapping[int, Prompt], answers: Mapping[Key, Answer], preprocessor: Preprocessor
) -> dict[Key, list[float]]:
    """Log-probabilities of the answers by transformers."""
    network = LlavaForConditionalGeneration.from_pretrained(model).eval()
    found = {}
    for key, answer in answers.items():
        prompt = prompts[key[0]]
        ids = preprocessor.expand(prompt.ids, prompt.picture)
        with torch.no_grad():
            logits = network(
                input_ids=torch.tensor([[*ids, *answer.token_ids]]),
                pixel_values=preprocessor.pixel_values([prompt.picture]),
            ).logits[0]
        logps = logits.log_softmax(-1)
        found[key] = [logps[len(ids) - 1 + i, token].item() for i, token in enumerate(answer.token_ids)]
    return found


def farthest(ours: Mapping[Key, object], theirs: Mapping[Key, object]) -> float:
    return max(abs(a - b) for key in ours for a, b in zip(ours[key], theirs[key], strict=True))  # type: ignore[call-overload]


def test_sampled_log_probabilities_equal_a_forward_pass(models, prompts, answers, preprocessor) -> None:
    theirs = forward(models[0], prompts, answers, preprocessor)
    assert farthest({key: answer.logprobs for key, answer in answers.items()}, theirs) < TOLERANCE


def test_given_answers_are_scored_as_they_were_sampled(engine, prompts, answers) -> None:
    scores = dict(engine.score((key, prompts[key[0]], answer.token_ids) for key, answer in answers.items()))
    assert farthest(scores, {key: answer.logprobs for key, answer in answers.items()}) < TOLERANCE


def test_seeds_make_answers_repeatable_and_different(engine, prompts, answers, preprocessor) -> None:
    again = sampled(engine, prompts, preprocessor)
    assert {key: answer.token_ids for key, answer in again.items()} == {
        key: answer.token_ids for key, answer in answers.items()
    }
    assert len({answers[0, c].token_ids for c in range(5)}) > 1


def test_a_banned_token_is_never_sampled(answers, preprocessor) -> None:
    assert all(preprocessor.image_token_id not in answer.token_ids for answer in answers.values())


def test_yes_and_no_are_full_vocabulary_probabilities(engine, models, prompts, preprocessor) -> None:
    verdicts = dict(engine.yes_no(prompts.items()))
    network = LlavaForConditionalGeneration.from_pretrained(models[0]).eval()
    vocabulary = preprocessor.processor.tokenizer.get_vocab()
    for i, prompt in prompts.items():
        with torch.no_grad():
            logits = network(
                input_ids=torch.tensor([preprocessor.expand(prompt.ids, prompt.picture)]),
                pixel_values=preprocessor.pixel_values([prompt.picture]),
            ).logits[0, -1]
        expected = logits.softmax(-1)
        assert verdicts[i].p_yes == pytest.approx(sum(expected[vocabulary[w]].item() for w in ("yes", "Yes")), abs=1e-5)
        assert verdicts[i].p_no == pytest.approx(sum(expected[vocabulary[w]].item() for w in ("no", "No")), abs=1e-5)


def test_one_prefix_for_all_questions_about_a_picture(engine, preprocessor) -> None:
    image = preprocessor.picture(picture(99))
    questions = [f"Is block {n} red? Please answer yes or no." for n in range(8)]
    requests = ((n, Prompt(preprocessor.prompt_ids(question), image, "99")) for n, question in enumerate(questions))
    verdicts = dict(engine.yes_no(requests))
    assert sum(verdict.cached_tokens > 0 for verdict in verdicts.values()) >= len(questions) - 1


def test_swapped_weights_answer_as_if_freshly_loaded(engine, models, prompts, answers, preprocessor) -> None:
    given = [(key, prompts[key[0]], answer.token_ids) for key, answer in answers.items()]
    for model in (models[1], models[0]):
        engine.use(model)
        assert farthest(dict(engine.score(given)), forward(model, prompts, answers, preprocessor)) < TOLERANCE


def test_the_model_sees_the_same_pixels_as_the_trainer(engine, prompts, preprocessor) -> None:
    """What vLLM feeds the vision tower, against Preprocessor.pixel_values, for pictures that are not square."""
    seen: list[torch.Tensor] = []

    def watch(model: torch.nn.Module) -> None:
        model.vision_tower.register_forward_pre_hook(
            lambda _, args, kwargs: seen.extend([*args, *kwargs.values()]), with_kwargs=True
        )

    engine._llm.apply_model(watch)
    fresh = preprocessor.picture(picture(7, 96, 50))
    dict(engine.yes_no([(0, Prompt(prompts[0].ids, fresh, "never seen before"))]))
    pixels = [value for value in seen if isinstance(value, torch.Tensor) and value.dim() == 4]
    assert len(pixels) == 1
    assert torch.equal(pixels[0].float(), preprocessor.pixel_values([fresh]))
