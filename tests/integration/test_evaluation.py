"""The evaluation with a real engine and a real store: every model answers, one is chosen, its answers are ranked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import generate_latest

from feedback_operator.cluster.progress import parse
from feedback_workloads.contract import (
    Artifact,
    BadInput,
    BenchmarkConfig,
    Decoding,
    EngineConfig,
    EvaluationConfig,
    Manifest,
    RankingChoice,
    Source,
    shard_uri,
)
from feedback_workloads.method.evaluation import Answer, Figures, Marked, choose_best_of, rank, reward_by
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.ranking import rankings
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.process.progress import Progress
from feedback_workloads.report.__main__ import main as report
from feedback_workloads.report.evidence import find_examples
from feedback_workloads.rows.schemas import SAMPLES, SCORES
from feedback_workloads.shapes.world import Split, png, rows
from feedback_workloads.stages import answering, evaluation
from feedback_workloads.storage.artifacts import ArtifactStore

STEPS = (4, 8)
BEST_OF = 3
QUESTIONS: dict[Split, int] = {"selection": 5, "report": 9}


def shapes_llava(folder: Path) -> Path:
    """A small LLaVA of random weights that speaks the words of the shapes world."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from feedback_workloads.models.families import name_weights
    from feedback_workloads.shapes.tokenizer import PATCH_PIXELS, PICTURE_TOKENS, make_processor
    from feedback_workloads.shapes.world import PICTURE_PIXELS, SHAPES

    processor = make_processor()
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            image_size=PICTURE_PIXELS, patch_size=PATCH_PIXELS,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PICTURE_TOKENS,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "language_model" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():  # of many words it should often say those that are judged
        model.lm_head.weight[tokenizer.convert_tokens_to_ids([f" {shape}" for shape in SHAPES])] *= 8
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    name_weights(folder)
    return folder


def changed(model: Path, folder: Path, seed: int) -> Path:
    """The model after a little noise, as training would leave it."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from feedback_workloads.models.families import name_weights

    loaded = LlavaForConditionalGeneration.from_pretrained(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    loaded.save_pretrained(folder)
    AutoProcessor.from_pretrained(model).save_pretrained(folder)
    name_weights(folder)
    return folder


def write_benchmark(folder: Path, **bad: dict[str, Any]) -> Path:
    """The benchmark of the shapes world, with rows that replace or join the good ones by id."""
    good = [
        {
            "id": row.id,
            "image": {"bytes": png(row.scene), "path": None},
            "question": row.question,
            "truth": row.scene.truth,
            "split": split,
        }
        for split, number in QUESTIONS.items()
        for row in rows(0, split, number)
    ]
    table = {row["id"]: row for row in good}
    for id, changes in bad.items():
        table[id] = {**good[-1], "id": id, **changes}
    folder.mkdir()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = [(name, pa.string()) for name in ("question", "truth", "split")]
    schema = pa.schema([("id", pa.string()), ("image", image), *text])
    pq.write_table(pa.Table.from_pylist(list(table.values()), schema), folder / "test.parquet")
    return folder


@dataclass(frozen=True)
class World:
    """A baseline, a policy artifact with two checkpoints, and a benchmark with four bad rows."""

    folder: Path
    store: ArtifactStore
    model: Path
    policy: Artifact
    benchmark: Path

    def config(self, output: str, **options: Any) -> EvaluationConfig:
        given = {
            "output": str(self.folder / output),
            "policy": (self.policy,),
            "model": Source(uri=str(self.model)),
            "benchmarks": (BenchmarkConfig(name="shapes", type="shapes", source=Source(uri=str(self.benchmark))),),
            "decoding": Decoding(temperature=0.0, max_new_tokens=24),
            "ranked_decoding": Decoding(temperature=1.0, max_new_tokens=24),
            "lambdas": (0.3,),
            "reward_on_baseline": True,
            "best_of": BEST_OF,
            "bootstrap_resamples": 50,
            "engine": EngineConfig(max_model_len=128, max_num_seqs=32),
        }
        return EvaluationConfig(**{**given, **options})

    def run(self, config: EvaluationConfig, progress: Progress | None = None) -> Outcome:
        return evaluation.run(config, 0, self.store, progress or Progress("evaluation"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("scores")
    store = ArtifactStore(folder / "cache")
    model = shapes_llava(folder / "model")
    checkpoints = {}
    for step in STEPS:
        name = f"checkpoint-{step:06}"
        local = changed(model, folder / "local" / name, seed=step)
        files = store.upload_folder(local, str(folder / "policy" / name))
        manifest = Manifest(stage="training", config={"step": step}, config_hash="", files=files, counts={})
        checkpoints[name] = store.publish(str(folder / "policy" / name), manifest)
    whole = Manifest(stage="training", config={}, config_hash="", files=(), counts={}, artifacts=checkpoints)
    broken = {
        "no-truth": {"truth": None},
        "bad-truth": {"truth": "?"},
        "no-picture": {"image": {"bytes": b"?", "path": None}},
        "no-question": {"question": " "},
        "too-long": {"question": "What is in the picture? " * 40},
        "elsewhere": {"split": "training"},
    }
    policy = store.publish(str(folder / "policy"), whole)
    return World(folder, store, model, policy, write_benchmark(folder / "benchmark", **broken))


@pytest.fixture(scope="module")
def progress() -> Progress:
    return Progress("evaluation")


@pytest.fixture(scope="module")
def outcome(world: World, progress: Progress) -> Outcome:
    return world.run(world.config("whole"), progress)


def published(world: World, config: EvaluationConfig, outcome: Outcome) -> Artifact:
    manifest = Manifest(
        stage="evaluation", config=config.content(), config_hash=config.content_hash(), files=outcome.files,
        counts=outcome.counts, metrics=outcome.metrics, artifacts=outcome.artifacts,
    )  # fmt: skip
    return world.store.publish(shard_uri(config, 0), manifest)


@pytest.fixture(scope="module")
def artifact(world: World, outcome: Outcome) -> Artifact:
    return published(world, world.config("whole"), outcome)


@pytest.fixture(scope="module")
def said(world: World, artifact: Artifact) -> list[dict[str, Any]]:
    return list(world.store.rows([artifact], SCORES))


@pytest.fixture(scope="module")
def summary(world: World, artifact: Artifact) -> dict[str, Any]:
    return json.loads((Path(artifact.uri) / "scores.json").read_text())


def test_every_model_answers_every_question_once_and_the_chosen_one_more(
    said: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    keys = [(row["checkpoint"], row["split"], row["drawn"], row["id"], row["candidate"]) for row in said]
    assert len(set(keys)) == len(keys)
    numbers = Counter(key[:3] for key in keys)
    models = ("baseline", *(f"checkpoint-{step:06}" for step in STEPS))
    once = {(model, split, "once"): number for model in models for split, number in QUESTIONS.items()}
    ranked = {
        (model, split, "ranked"): number * BEST_OF
        for model in ("baseline", summary["selected"])
        for split, number in QUESTIONS.items()
    }
    assert numbers == {**once, **ranked}
    assert {row["drawn"] for row in said if row["other_logp"] is not None} == {"ranked"}
    assert all(row["other_logp"] is not None for row in said if row["drawn"] == "ranked")


def check_progress(progress: Progress) -> None:
    """All that was announced was done."""
    units = parse(generate_latest(progress.registry).decode())
    assert units.done == units.total


def test_progress_ends_at_its_total(outcome: Outcome, progress: Progress) -> None:
    check_progress(progress)


def test_figures_are_those_of_the_rows(said: list[dict[str, Any]], summary: dict[str, Any], outcome: Outcome) -> None:
    def share(rows: list[dict[str, Any]]) -> float:
        naming = [row for row in rows if row["mentions"]]
        return sum(row["hallucinated"] > 0 for row in naming) / len(naming)

    single = [row for row in said if (row["split"], row["drawn"]) == ("report", "once")]
    before = [row for row in single if row["checkpoint"] == "baseline"]
    after = [row for row in single if row["checkpoint"] == summary["selected"]]
    assert summary["baseline"]["response_hallucination"]["value"] == pytest.approx(share(before))
    assert summary["aligned"]["response_hallucination"]["value"] == pytest.approx(share(after))
    beside = summary["baseline_best_of_n"]
    likely = best_by(said, "baseline", beside["n"], lambda row: row["logp"])
    assert beside["response_hallucination"]["value"] == pytest.approx(share(likely))
    on_baseline = {
        (row["by"], row["rule"], row["n"]): row["report"]["response_hallucination"]["value"]
        for row in summary["reward_on_baseline"]
    }
    other = best_by(said, "baseline", 2, lambda row: row["other_logp"])
    assert on_baseline["aligned", "PolicyLikelihood", 2] == pytest.approx(share(other))
    likeliest = best_by(said, "baseline", BEST_OF, lambda row: row["logp"])
    assert on_baseline["baseline", "PolicyLikelihood", BEST_OF] == pytest.approx(share(likeliest))
    assert [one["step"] for one in summary["checkpoints"]] == list(STEPS)
    assert outcome.metrics["aligned.response_hallucination"] == summary["aligned"]["response_hallucination"]["value"]
    assert f"checkpoint-{int(outcome.metrics['selected_step']):06}" == summary["selected"]
    assert outcome.artifacts["aligned"].uri.endswith(summary["selected"])


def test_how_many_answers_to_rank_is_chosen_on_the_selection_split_alone(
    world: World, said: list[dict[str, Any]], summary: dict[str, Any], outcome: Outcome
) -> None:
    def marked(split: str, drawn: str) -> list[Marked]:
        return [
            Marked(
                Answer(
                    row["id"], row["candidate"], row["answer"], row["tokens"], row["logp"], row["other_logp"] or 0.0
                ),
                Judgement(
                    row["mentions"],
                    row["hallucinated"],
                    row["covered"],
                    row["truth_total"],
                    row["expected"],
                    row["expected_covered"],
                ),
            )
            for row in said
            if (row["checkpoint"], row["split"], row["drawn"]) == (summary["selected"], split, drawn)
        ]

    candidates = {"selection": marked("selection", "ranked"), "report": marked("report", "ranked")}
    rewards = {by: reward_by(by, 0.1) for by in rankings([0.3])}
    figures, once = Figures(50, 0), marked("selection", "once")
    rows = rank(candidates, once, rewards, BEST_OF, figures)
    decoding = world.config("whole").ranked_decoding.model_dump(mode="json")
    assert summary["ranking"] == [{**row.to_json(), "decoding": decoding} for row in rows]
    expect = choose_best_of(rows, figures.of(once), 0.95)
    assert outcome.ranked == (RankingChoice(n=expect.n, ranking=expect.by) if expect else RankingChoice())
    assert summary["best_of_n"]["n"] == (expect.n if expect else 1)


def test_bad_rows_are_counted_by_reason(outcome: Outcome) -> None:
    counts = {name: number for name, number in outcome.counts.items() if name.startswith("rejected_")}
    assert counts == {
        "rejected_missing-truth": 1,
        "rejected_bad-truth": 1,
        "rejected_undecodable-picture": 1,
        "rejected_empty-question": 1,
        "rejected_prompt-too-long": 1,
    }
    assert outcome.counts["rejected"] == 5
    assert outcome.counts["rows"] == sum(QUESTIONS.values())


def best_by(
    said: list[dict[str, Any]], model: str, n: int, reward: Callable[[dict[str, Any]], float]
) -> list[dict[str, Any]]:
    """The best of the first `n` candidates of `model` to each question of the report split."""
    found: dict[str, dict[str, Any]] = {}
    for row in said:
        if (row["checkpoint"], row["split"], row["drawn"]) == (model, "report", "ranked") and row["candidate"] < n:
            before = found.get(row["id"])
            if before is None or reward(row) > reward(before):
                found[row["id"]] = row
    return list(found.values())


def check_logps(world: World, config: EvaluationConfig, outcome: Outcome, policy: Any) -> None:
    """Compare log-probabilities under both models with transformers', over the tokens that were sampled."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from feedback_workloads.models.families import family_of

    family = family_of(world.model)
    pictures = {row.id: png(row.scene) for split, number in QUESTIONS.items() for row in rows(0, split, number)}

    def logp(model: Any, sample: dict[str, Any]) -> float:
        picture = family.picture(pictures[sample["id"]])
        prompt = family.expand(family.prompt_ids(sample["question"]), picture)
        ids = torch.tensor([[*prompt, *sample["token_ids"]]])
        with torch.no_grad():
            logits = model(input_ids=ids, **family.features(picture)).logits[0]
        steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return float(steps.gather(1, torch.tensor(sample["token_ids"])[:, None]).sum())

    selected = f"checkpoint-{int(outcome.metrics['selected_step']):06}"
    own = {
        model: {
            (row["id"], row["candidate"]): row
            for name, ref in outcome.artifacts.items()
            if name.startswith(f"answers/{model}/shapes/") and name.endswith("/ranked")
            for row in world.store.rows([ref], SAMPLES)
        }
        for model in (selected, "baseline")
    }
    reference = LlavaForConditionalGeneration.from_pretrained(world.model)
    parts = [Path(shard_uri(config, 0)) / entry.name for entry in outcome.files if entry.name.endswith(".parquet")]
    ranked = [row for part in parts for row in pq.read_table(part).to_pylist() if row["drawn"] == "ranked"]
    assert len(ranked) == sum(map(len, own.values())) == 2 * sum(QUESTIONS.values()) * BEST_OF
    for row in ranked:
        sample = own[row["checkpoint"]][row["id"], row["candidate"]]
        models = (reference, policy) if row["checkpoint"] == "baseline" else (policy, reference)
        expect = [pytest.approx(logp(model, sample), abs=1e-3) for model in models]
        assert [row["logp"], row["other_logp"]] == expect


def test_log_probabilities_equal_an_offline_recomputation(world: World, outcome: Outcome) -> None:
    from transformers import LlavaForConditionalGeneration

    policy = LlavaForConditionalGeneration.from_pretrained(outcome.artifacts["aligned"].uri)
    check_logps(world, world.config("whole"), outcome, policy)


def test_adapters_are_scored_on_top_of_the_baseline(world: World) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlavaForConditionalGeneration

    checkpoints = {}
    for step in STEPS:
        model = LlavaForConditionalGeneration.from_pretrained(world.model)
        targets = r".*language_model.*\.(q_proj|v_proj|up_proj)"
        adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
        torch.manual_seed(step)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        name, uri = f"checkpoint-{step:06}", str(world.folder / "adapters" / f"checkpoint-{step:06}")
        adapted.save_pretrained(world.folder / "local-adapters" / name)
        files = world.store.upload_folder(world.folder / "local-adapters" / name, uri)
        checkpoints[name] = world.store.publish(
            uri, Manifest(stage="training", config={"step": step}, config_hash="", files=files, counts={})
        )
    whole = Manifest(stage="training", config={}, config_hash="", files=(), counts={}, artifacts=checkpoints)
    config = world.config("lora", policy=(world.store.publish(str(world.folder / "adapters"), whole),))
    outcome = world.run(config)
    base = LlavaForConditionalGeneration.from_pretrained(world.model)
    policy = PeftModel.from_pretrained(base, outcome.artifacts["aligned"].uri).eval()
    check_logps(world, config, outcome, policy)


class Killed(Exception):
    pass


class KillsAfter(Progress):
    """Ends the stage after so many answers."""

    def __init__(self, answers: int) -> None:
        super().__init__("evaluation")
        self._left = answers

    def advance(self, units: int = 1) -> None:
        self._left -= units
        if self._left < 0:
            raise Killed


def test_a_killed_stage_goes_on_to_the_same_result(
    world: World, outcome: Outcome, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same but for the last bits of log-probabilities: some processors compute a row otherwise in another batch."""
    monkeypatch.setattr(answering, "PART_ANSWERS", 4)
    config = world.config("killed")
    for answers in (8, 80):
        with pytest.raises(Killed):
            world.run(config, KillsAfter(answers))
    progress = Progress("evaluation")
    after = world.run(config, progress)
    check_progress(progress)
    rows = list(world.store.rows([published(world, config, after)], SCORES))
    logps = ("logp", "other_logp")
    assert [{**row, **dict.fromkeys(logps)} for row in rows] == [{**row, **dict.fromkeys(logps)} for row in said]
    for name in logps:
        assert [row[name] for row in rows] == [row[name] and pytest.approx(row[name], abs=1e-4) for row in said]
    assert (after.counts, after.metrics) == (outcome.counts, outcome.metrics)
    assert after.artifacts.keys() == outcome.artifacts.keys()


def test_nothing_is_asked_again_when_all_answers_are_there(
    world: World, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(*_: object) -> Iterator[None]:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(answering.Engine, "load", no_engine)
    progress = Progress("evaluation")
    assert world.run(world.config("whole"), progress) == outcome
    check_progress(progress)


def test_report_finds_examples(world: World, artifact: Artifact, summary: dict[str, Any]) -> None:
    answered = {"baseline", "aligned", *(["best_of_n"] if summary["best_of_n"]["n"] > 1 else [])}
    examples = find_examples(world.store, artifact)
    assert sum(examples.numbers.values()) == QUESTIONS["report"]
    assert examples.shown
    assert all(one.images[0].startswith(b"\x89PNG") and one.answers.keys() == answered for one in examples.shown)


def test_report_of_a_run_whose_pairs_are_missing(
    world: World,
    artifact: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def done(name: str, ref: Artifact) -> dict[str, Any]:
        shard = {"shard": 0, "uri": ref.uri, "sha256": ref.sha256, "counts": {"rows": 1, "rejected": 0}}
        return {"name": name, "state": "Done", "shards": [shard]}

    failed = {"name": "pairing", "state": "Failed", "message": "out of memory"}
    iteration = {
        "metadata": {"name": "tiny"},
        "spec": {"model": {"uri": str(world.model)}},
        "status": {"stages": [failed, done("training", world.policy), done("evaluation", artifact)]},
        "wallSeconds": 61.0,
    }
    (tmp_path / "iteration.json").write_text(json.dumps(iteration))
    monkeypatch.setenv("FEEDBACK_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert report(["--iteration", str(tmp_path / "iteration.json"), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].endswith("  drawn")
    assert printed.out.splitlines()[1].startswith("baseline  ")
    assert printed.out.splitlines()[-1].startswith("The server's default is ")
    missing = json.loads((out / "summary.json").read_text())["missing"]
    assert missing[0] == "Stage pairing failed: out of memory."
    assert "has no file training.jsonl" in missing[1]
    assert all(sentence in printed.err for sentence in missing)
    assert "<svg" in (out / "report.html").read_text()


def test_a_split_without_questions_names_benchmark_and_splits(world: World) -> None:
    other = BenchmarkConfig(name="shapes", type="shapes", source=Source(uri=str(world.benchmark)), selection="dev")
    with pytest.raises(BadInput, match=r"no usable question of split 'dev' \(its splits are .*'report', 'selection'"):
        world.run(world.config("none", benchmarks=(other,)))


def test_a_policy_without_checkpoints(world: World) -> None:
    empty = Manifest(stage="training", config={}, config_hash="", files=(), counts={})
    policy = world.store.publish(str(world.folder / "empty"), empty)
    with pytest.raises(BadInput, match="names no checkpoints"):
        world.run(world.config("none", policy=(policy,)))


def test_a_model_by_itself_on_two_benchmarks(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained, the second benchmark asks for yes and no, and the report tells both."""
    asked = write_benchmark(tmp_path / "pope")
    table = pq.read_table(asked / "test.parquet").to_pylist()
    for number, row in enumerate(table):
        row |= {"question": "Is there a circle?", "truth": "no" if number % 2 else "yes"}
    pq.write_table(pa.Table.from_pylist(table, pq.read_schema(asked / "test.parquet")), asked / "test.parquet")
    shapes = world.config("none").benchmarks[0]
    pope = BenchmarkConfig(name="pope", type="pope", source=Source(uri=str(asked)))
    config = world.config("alone", policy=(), benchmarks=(shapes, pope), reward_on_baseline=False)
    progress = Progress("evaluation")
    outcome = world.run(config, progress)
    check_progress(progress)
    artifact = published(world, config, outcome)
    assert (outcome.ranked, outcome.artifacts.keys() & {"aligned"}) == (None, set())
    said = pa.concat_tables(pq.read_table(file) for file in sorted(Path(artifact.uri).glob("part-*.parquet")))
    numbers = Counter((row["checkpoint"], row["benchmark"], row["split"], row["drawn"]) for row in said.to_pylist())
    assert numbers == {
        ("baseline", name, "report", drawn): QUESTIONS["report"] * number
        for name in ("shapes", "pope")
        for drawn, number in (("once", 1), ("ranked", BEST_OF))
    }
    right = {
        row["id"]: row["right"] for row in said.to_pylist() if row["drawn"] == "once" and row["benchmark"] == "pope"
    }
    assert {row["right"] for row in said.to_pylist() if row["benchmark"] == "shapes"} == {None}
    scores = json.loads((Path(artifact.uri) / "scores.json").read_text())
    accuracy = scores["others"]["pope"]["baseline"]["accuracy"]
    assert accuracy["value"] == pytest.approx(sum(right.values()) / len(right))
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert [row["n"] for row in scores["baseline_ranking"]] == [1, 2, 3]
    assert outcome.metrics["baseline.mean_words"] == scores["baseline"]["mean_words"]
    shard = {"shard": 0, "uri": artifact.uri, "sha256": artifact.sha256, "counts": {"rows": 1, "rejected": 0}}
    iteration = {
        "metadata": {"name": "alone"},
        "spec": {"model": {"uri": str(world.model)}, "only": "Evaluation"},
        "status": {"stages": [{"name": "evaluation", "state": "Done", "shards": [shard]}]},
        "ending": {"how": "evaluated"},
    }
    (tmp_path / "iteration.json").write_text(json.dumps(iteration))
    monkeypatch.setenv("FEEDBACK_CACHE", str(tmp_path / "cache"))
    assert report(["--iteration", str(tmp_path / "iteration.json"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "baseline",
        "baseline, best of 3 by its own likelihood",
        "pope",
    ]
    assert (" accuracy  " in lines[4], printed.err) == (True, "")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["aligned"], summary["missing"]) == (None, [])
    assert summary["others"]["pope"]["baseline"]["accuracy"] == accuracy
    page = (tmp_path / "out/report.html").read_text()
    assert "The model was evaluated as it is" in page
    assert 'aria-label="Benchmark pope"' in page
    assert "incomplete" not in page
