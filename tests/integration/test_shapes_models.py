"""What the shapes world saves loads in transformers and in vLLM alike, and knows its own words and pictures."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import datasets
import pytest
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from feedback_workloads.contract import BadInput, Decoding, EngineConfig
from feedback_workloads.engine import Draw, Engine, Prompt
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.process.progress import Progress
from feedback_workloads.shapes.build import train, write_rows
from feedback_workloads.shapes.captions import careless_words
from feedback_workloads.shapes.courses import (
    CARELESSNESS,
    COMPARING,
    SEEING,
    Course,
    Curriculum,
    Examination,
    misjudged,
)
from feedback_workloads.shapes.examination import errors, greedy_answers, verdicts
from feedback_workloads.shapes.learning import learn, study
from feedback_workloads.shapes.lessons import Lesson, ask, presence, question, single_claim, true_caption
from feedback_workloads.shapes.models import load, new_model, pixels, save
from feedback_workloads.shapes.muon import Muon
from feedback_workloads.shapes.tokenizer import ASSISTANT, PICTURE_TOKENS, encode, word_ids, words
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import Scene, picture, png, question_of, rows
from tests.arithmetic import NoBfloat16

TOLERANCE = 1e-3  # nats a token
YES, NO = ("yes", " yes", "Yes", " Yes"), ("no", " no", "No", " No")
MATRICES = ((8, 8), (24, 8), (8, 40))
SEEN = rows(0, "report", 6)
ASKED = Course("comparing", question, steps=4)
UNEXAMINED = replace(SEEING, steps=3, examination=None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that learned a little of both courses, as the build saves it."""
    network = new_model(seed=0)
    learn(network, replace(SEEING, steps=40), seed=0, step_done=lambda: None)
    learn(network, ASKED, seed=0, step_done=lambda: None)
    folder: Path = tmp_path_factory.mktemp("shapes") / "model"
    save(network, folder)
    return folder


@pytest.fixture(scope="module")
def family(model: Path) -> Family:
    return family_of(model)


@pytest.fixture(scope="module")
def network(model: Path) -> LlavaForConditionalGeneration:
    return load(model).eval()


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with Engine.load(family_of(model), EngineConfig(max_model_len=256, max_num_seqs=16), precision="float32") as loaded:
        yield loaded


def forward(
    network: LlavaForConditionalGeneration, family: Family, prompt: Prompt, answer: tuple[int, ...]
) -> torch.Tensor:
    """Log-probabilities after the prompt and after each token of the answer: (answer + 1, words)."""
    ids = family.expand(prompt.ids, *prompt.pictures)
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([[*ids, *answer]]), **family.features(*prompt.pictures)).logits[0]
    return logits[len(ids) - 1 :].log_softmax(-1)


def test_lessons_have_the_tokens_of_the_chat_template(family: Family) -> None:
    rng = Random(0)
    for row in SEEN:
        claims = [single_claim(row.scene, rng)]
        for lesson in (ask(row.scene, claims), true_caption(row.scene, rng)):
            end = lesson.tokens.index(word_ids()[ASSISTANT])
            text = "".join(words()[token] for token in lesson.tokens[1 + PICTURE_TOKENS : end])
            expected = family.expand(family.prompt_ids(text), picture(row.scene))
            assert expected == list(lesson.tokens[: end + 1])


def test_lessons_have_the_pixels_of_the_processor(family: Family) -> None:
    features = [family.features(family.picture(png(row.scene))) for row in SEEN]
    processed = family.collate(features)["pixel_values"]
    torch.testing.assert_close(pixels(row.scene for row in SEEN), processed, atol=1e-6, rtol=0)


def test_every_text_survives_the_tokenizer(family: Family) -> None:
    for row in SEEN:
        caption = careless_words(row.scene, row.question, Random(row.id))
        for text in (row.question, caption, question_of(caption), "yes", "No"):
            ids = family.tokenizer(text)["input_ids"]
            assert ids == encode(text)
            assert family.answer(ids) == text


def test_yes_and_no_are_tokens_in_every_form(family: Family) -> None:
    for word in (*YES, *NO):
        assert len(family.tokenizer(word)["input_ids"]) == 1


def test_answers_in_vllm_have_the_log_probabilities_of_transformers(engine, network, family) -> None:
    prompts = {row.id: family.prompt(row.question, png(row.scene)) for row in SEEN}
    requests = ((id, prompt, Draw(i, 0.7)) for i, (id, prompt) in enumerate(prompts.items()))
    answers = dict(engine.sample(requests, Decoding(max_new_tokens=48)))
    assert set(answers) == set(prompts)
    for id, answer in answers.items():
        theirs = forward(network, family, prompts[id], tuple(answer.token_ids))
        found = [theirs[i, token].item() for i, token in enumerate(answer.token_ids)]
        assert answer.logprobs == pytest.approx(found, abs=TOLERANCE)


def test_verdicts_in_vllm_are_those_of_transformers(engine, network, family) -> None:
    claims = {row.id: careless_words(row.scene, row.question, Random(row.id)) for row in SEEN}
    prompts = {row.id: family.prompt(question_of(claims[row.id]), png(row.scene)) for row in SEEN}
    for id, verdict in engine.yes_no(prompts.items()):
        expected = forward(network, family, prompts[id], ())[0].exp()
        for found, forms in ((verdict.p_yes, YES), (verdict.p_no, NO)):
            assert found == pytest.approx(sum(expected[word_ids()[form]].item() for form in forms), abs=1e-5)


def test_training_twice_gives_the_same_weights() -> None:
    def trained() -> dict[str, torch.Tensor]:
        network = new_model(seed=5)
        learn(network, replace(SEEING, steps=3), seed=5, step_done=lambda: None)
        return network.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    seeing, courses = UNEXAMINED, {"labeler": replace(COMPARING, steps=2, examination=None)}
    progress = Progress("shapes")
    train(Curriculum(5, seeing, courses), tmp_path, progress)
    alone = new_model(seed=5)
    for course in (seeing, *courses.values()):
        learn(alone, course, seed=5, step_done=lambda: None)
    start, together = new_model(seed=5).state_dict(), load(tmp_path / "labeler").state_dict()
    learned = alone.state_dict()
    moved = max((value - start[name]).abs().max() for name, value in learned.items())
    apart = max((value - together[name]).abs().max() for name, value in learned.items())
    assert apart <= 0.02 * moved, "more than what orthogonalising makes of rounding"
    assert progress.account().here == 5


def die_first(scene: Scene, rng: Random) -> Lesson:
    """A teacher that the first process to ask does not survive."""
    with suppress(FileExistsError):
        Path(os.environ["FEEDBACK_TEST_FIRST"]).touch(exist_ok=False)
        os._exit(9)
    return true_caption(scene, rng)


def test_a_process_that_dies_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDBACK_TEST_FIRST", str(tmp_path / "first"))
    with pytest.raises(RuntimeError, match="exit code 9"):
        train(
            Curriculum(5, replace(SEEING, teacher=die_first, steps=3, examination=None), {}),
            tmp_path,
            Progress("shapes"),
        )
    assert not multiprocessing.active_children()


def failing(times: int) -> Examination:
    """An examination that a model passes after so many times."""
    left = ["cannot read"] * times
    return lambda model: left.pop() if left else ""


def test_more_is_learned_until_the_examination_is_passed() -> None:
    steps: list[int] = []
    course = replace(SEEING, steps=2, more=1, repeats=3, examination=failing(2))
    study(new_model(5), course, 5, lambda: steps.append(1), prolonged=lambda more: steps.append(10 * more))
    assert steps == [1, 1, 10, 1, 10, 1]


def test_a_world_whose_policy_does_not_learn_is_refused(tmp_path: Path) -> None:
    course = replace(SEEING, steps=1, more=1, repeats=1, examination=never)
    progress = Progress("shapes")
    with pytest.raises(BadInput, match="seeing with seed 5: cannot read; build the world from another seed"):
        train(Curriculum(5, course, {"policy": course}), tmp_path, progress)
    assert (progress.account().here, progress.account().total) == (2, 3)
    assert not list(tmp_path.iterdir())


def never(_model: LlavaForConditionalGeneration) -> str:
    return "cannot read"


# ── a policy that hallucinates ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has learned for half as long as the world's, and has all of its habits."""
    folder: Path = tmp_path_factory.mktemp("world")
    seeing = replace(SEEING, steps=300, examination=None)
    careless = replace(CARELESSNESS, steps=250, rate=0.3, examination=None)
    train(Curriculum(0, seeing, {"policy": careless}), folder, Progress("shapes"))
    return folder / "policy"


def test_the_policy_hallucinates_at_temperature_0_and_its_likelihood_does_not_help(policy: Path) -> None:
    """Or there would be nothing to align that decoding or ranking would not mend for free."""
    family = family_of(policy)
    questions = {row.id: row for row in rows(0, "selection", 200)}
    prompts = {id: family.prompt(row.question, png(row.scene)) for id, row in questions.items()}
    with Engine.load(family, EngineConfig(max_model_len=256), precision="float32") as engine:

        def hallucinates(temperature: float, best_of: int) -> float:
            """Share of the questions whose likeliest of several answers holds something untrue."""
            draws = (((id, i), prompt, Draw(i, temperature)) for id, prompt in prompts.items() for i in range(best_of))
            likeliest: dict[str, tuple[float, str]] = {}
            for (id, _), answer in engine.sample(draws, Decoding(max_new_tokens=96)):
                one = (sum(answer.logprobs), family.answer(answer.token_ids))
                likeliest[id] = max(one, likeliest.get(id, one))
            wrong = [judge(text, questions[id].scene.truth).hallucinated for id, (_, text) in likeliest.items()]
            return sum(map(bool, wrong)) / len(wrong)

        greedy = hallucinates(0.0, 1)
        assert 0.3 < greedy < 0.7
        assert hallucinates(0.7, 8) >= 0.8 * greedy
    shown = [row.scene for row in questions.values()]
    found = errors(greedy_answers(load(policy).eval(), shown), shown)
    assert found["companion"] + found["usual color"] + found["overlooked"] > found["none"]


# ── Muon in float32 ──────────────────────────────────────────────────────────────────────────────────────────────────


def muon_weights(kind: type[torch.optim.Optimizer], **options: float | bool) -> list[Tensor]:
    """Weights after some steps with random gradients; the last one never has a gradient."""
    source = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=source)) for shape in (*MATRICES, (4, 4))]
    optimizer = kind(weights, lr=0.01, **options)  # type: ignore[call-arg]
    for _ in range(5):
        for weight in weights[:-1]:
            weight.grad = torch.randn(weight.shape, generator=source)
        optimizer.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.0, "momentum": 0.8}, {"nesterov": False, "ns_steps": 3}])
def test_muon_is_torchs_but_for_the_rounding_of_bfloat16(options: dict[str, float | bool]) -> None:
    for ours, theirs in zip(muon_weights(Muon, **options), muon_weights(torch.optim.Muon, **options), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)  # each of five updates changes some 0.01


def test_muon_computes_nothing_in_bfloat16() -> None:
    with NoBfloat16():
        muon_weights(Muon)
    with pytest.raises(AssertionError, match="bfloat16"), NoBfloat16():
        muon_weights(torch.optim.Muon)


def test_the_world_computes_nothing_in_bfloat16() -> None:
    """A processor without such instructions takes forty times as long for each of these products."""
    network = new_model(seed=5)
    with NoBfloat16():
        learn(network, replace(SEEING, steps=1), seed=5, step_done=lambda: None)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_load_as_a_hugging_face_data_set(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(write_rows(SEEN))
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "data.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[0]["image"].convert("RGB").tobytes() == picture(SEEN[0].scene).tobytes()
    assert loaded[0]["question"] == SEEN[0].question


def test_a_labeler_that_has_learned_nothing_fails_its_examination() -> None:
    assert "of single claims misjudged, more than 10%" in misjudged(new_model(5))


def test_verdicts_are_read_where_the_lesson_has_them() -> None:
    network = new_model(5)
    lessons = [ask(row.scene, [presence(row.scene, thing) for thing in row.scene.things]) for row in SEEN]
    expect = []
    for lesson in lessons:
        said = network(input_ids=torch.tensor([lesson.tokens[:-2]]), pixel_values=pixels([lesson.scene])).logits[0, -1]
        expect.append(bool(said[word_ids()["yes"]] > said[word_ids()["no"]]))
    assert verdicts(network, lessons) == expect
