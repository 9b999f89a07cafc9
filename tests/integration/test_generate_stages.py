"""samples, claims and verdicts with real engines on tiny models and a store on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_workloads.contract import (
    Artifact,
    BadInput,
    Decoding,
    EngineConfig,
    ExitCode,
    LabelingConfig,
    LLMSplitter,
    Manifest,
    SamplingConfig,
    Source,
    SplittingConfig,
    StageConfig,
    WholeAnswer,
    shard_uri,
)
from feedback_workloads.method.splitting import CONVERT_PROMPT, DIVIDE_PROMPT, REQUEST, bullets
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.identity import shard_of
from feedback_workloads.rows.schemas import CLAIMS, IMAGE, SAMPLES
from feedback_workloads.stages import labeling, sampling, splitting
from feedback_workloads.stages.entry import TERMINATION_LOG_VARIABLE
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.integration.models import picture, tiny_llava, tiny_llm

ENGINE = EngineConfig(max_model_len=320, max_num_seqs=16)
QUESTION = "What is it?"
GOOD = [f"good-{i}" for i in range(7)]

Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A folder with instructions and models, and a store on it."""

    folder: Path

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.folder / "cache")

    @property
    def model(self) -> Source:
        return Source(uri=str(self.folder / "model"))

    def instructions(self, name: str, rows: Iterable[tuple[str, bytes, str]]) -> Source:
        """Write instructions of (id, picture, question)."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        schema = pa.schema([("id", pa.string()), ("image", IMAGE), ("question", pa.string())])
        table = [{"id": id, "image": {"bytes": data, "path": None}, "question": asked} for id, data, asked in rows]
        pq.write_table(pa.Table.from_pylist(table, schema), folder / "train.parquet")
        return Source(uri=str(folder))

    def publish(self, config: StageConfig, outcome: Outcome) -> Artifact:
        manifest = Manifest(
            stage="any", config={}, config_hash="", files=outcome.files, counts=outcome.counts, metrics=outcome.metrics
        )
        return self.store.publish(shard_uri(config, 0), manifest)

    def given(self, stage: str, schema: pa.Schema, rows: list[Row]) -> Artifact:
        """An artifact of an earlier stage."""
        uri = str(self.folder / stage)
        with self.store.append(uri, schema) as parts:
            parts.write(rows)
            manifest = Manifest(stage=stage, config={}, config_hash="", files=parts.files(), counts=parts.counts())
        return self.store.publish(uri, manifest)


def stored(config: StageConfig, kind: str = "part", shard: int = 0) -> list[Row]:
    files = sorted(Path(shard_uri(config, shard)).glob(f"{kind}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def keys(rows: Iterable[Row]) -> list[tuple[str, int]]:
    return [(row["id"], row["candidate"]) for row in rows]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    tiny_llava(folder / "model")
    return World(folder)


@pytest.fixture(scope="module")
def mixed(world: World) -> Source:
    """Seven good instructions among some of every bad kind."""
    good = [(id, picture(i, 60 + 10 * i, 70), QUESTION) for i, id in enumerate(GOOD)]
    bad = [
        ("truncated", picture(9)[:60], QUESTION),
        ("20-megapixel", large_png(), QUESTION),
        ("long-question", picture(10), "why " * 300),
        ("spells-the-token", picture(11), "What is an <image>?"),
        ("empty-question", picture(12), " "),
        (GOOD[0], picture(13), QUESTION),
    ]
    return world.instructions("mixed", [*good[:3], *bad, *good[3:]])


def large_png() -> bytes:
    from io import BytesIO

    from PIL import Image

    data = BytesIO()
    Image.new("1", (5000, 4000)).save(data, "PNG")
    return data.getvalue()


def sampling_config(world: World, instructions: Source, output: str, **options: Any) -> SamplingConfig:
    return SamplingConfig(
        output=str(world.folder / output),
        max_rejected_fraction=1.0,
        model=world.model,
        instructions=instructions,
        candidates=3,
        decoding=Decoding(temperature=0.9, max_new_tokens=12),
        part_rows=2,
        engine=ENGINE,
        **options,
    )


def run_samples(world: World, config: SamplingConfig, shard: int = 0) -> Outcome:
    return sampling.run(config, shard, world.store, Progress("sampling"))


@pytest.fixture(scope="module")
def sampled(world: World, mixed: Source) -> tuple[SamplingConfig, Outcome]:
    config = sampling_config(world, mixed, "sampling")
    return config, run_samples(world, config)


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_candidate_once_in_the_order_of_the_instructions(sampled: tuple[SamplingConfig, Outcome]) -> None:
    config, outcome = sampled
    rows = stored(config)
    assert keys(rows) == [(id, candidate) for id in GOOD for candidate in range(3)]
    assert outcome.counts["rows"] == len(rows)
    for row in rows:
        assert 0 < len(row["token_ids"]) == len(row["logprobs"]) <= 12
        assert row["question"] == QUESTION
        assert all(logprob <= 0 for logprob in row["logprobs"])
    assert len({row["seed"] for row in rows}) == len(rows)


def test_bad_instructions_are_rejected_with_a_reason(sampled: tuple[SamplingConfig, Outcome]) -> None:
    config, outcome = sampled
    assert {row["id"]: row["reason"] for row in stored(config, "rejected")} == {
        "truncated": "undecodable-picture",
        "20-megapixel": "picture-too-large",
        "long-question": "prompt-too-long",
        "spells-the-token": "picture-token",
        "empty-question": "empty-question",
        "train.parquet:9": "duplicate-id",
    }
    assert outcome.counts["rejected"] == 6


def test_metrics_are_of_all_answers(sampled: tuple[SamplingConfig, Outcome]) -> None:
    config, outcome = sampled
    rows = stored(config)
    assert outcome.metrics["seeded"] == 1.0
    assert outcome.metrics["mean_tokens"] == pytest.approx(sum(len(row["token_ids"]) for row in rows) / len(rows))
    cut = [row for row in rows if row["finish_reason"] == "length"]
    assert outcome.metrics["length_stops"] == pytest.approx(len(cut) / len(rows))
    assert all(len(row["token_ids"]) == 12 for row in cut)
    assert cut


def test_a_stage_that_lost_its_last_parts_ends_the_same(
    world: World, mixed: Source, sampled: tuple[SamplingConfig, Outcome]
) -> None:
    config = sampling_config(world, mixed, "samples-again")
    first, *others = sorted(Path(shard_uri(sampled[0], 0)).glob("*-0000*.parquet"))
    folder = Path(shard_uri(config, 0))
    folder.mkdir(parents=True)
    (folder / first.name).write_bytes(first.read_bytes())
    outcome = run_samples(world, config)
    assert len(others) > 3
    assert outcome.counts == sampled[1].counts
    assert outcome.metrics == sampled[1].metrics
    assert answers_of(stored(config)) == answers_of(stored(sampled[0]))


def answers_of(rows: Iterable[Row]) -> Mapping[tuple[str, int], tuple[int, ...]]:
    return {(row["id"], row["candidate"]): tuple(row["token_ids"]) for row in rows}


def test_a_finished_shard_loads_no_engine(sampled: tuple[SamplingConfig, Outcome], world: World) -> None:
    config, outcome = sampled
    missing = config.model_copy(update={"model": Source(uri="/nowhere")})
    again = run_samples(world, missing)
    assert again.files == outcome.files
    assert again.counts == outcome.counts


def test_shards_share_the_work_by_id(world: World, mixed: Source, sampled: tuple[SamplingConfig, Outcome]) -> None:
    config = sampling_config(world, mixed, "samples-sharded", shards=2)
    outcome = run_samples(world, config, shard=1)
    found = answers_of(stored(config, shard=1))
    assert {id for id, _ in found} == {id for id in GOOD if shard_of(id, 2) == 1}
    assert found.items() <= answers_of(stored(sampled[0])).items(), "a row's seed does not depend on its shard"
    assert outcome.counts["rows"] == len(found)


def test_temperatures_of_the_ablation_go_round(world: World, mixed: Source) -> None:
    config = sampling_config(world, mixed, "samples-hot", temperatures=(0.0, 1.5))
    run_samples(world, config)
    assert Counter(row["temperature"] for row in stored(config)) == {0.0: 2 * len(GOOD), 1.5: len(GOOD)}
    greedy = {(row["id"], tuple(row["token_ids"])) for row in stored(config) if row["temperature"] == 0.0}
    assert len(greedy) == len(GOOD), "at temperature 0 every candidate is the same"


def test_prompts_of_the_ablation_go_round_and_the_question_stays(
    world: World, mixed: Source, sampled: tuple[SamplingConfig, Outcome]
) -> None:
    cold = Decoding(temperature=0.0, max_new_tokens=12)
    config = sampling_config(world, mixed, "samples-styles", prompts=("Name it.", "Say more about all that is there."))
    run_samples(world, config.model_copy(update={"decoding": cold}))
    asked = {row["id"]: row["question"] for row in stored(sampled[0])}
    found = sorted(stored(config), key=lambda row: row["candidate"])
    for id in GOOD:
        rows = [row for row in found if row["id"] == id]
        assert {row["question"] for row in rows} == {asked[id]}
        assert rows[0]["prompt_tokens"] == rows[2]["prompt_tokens"] < rows[1]["prompt_tokens"]


def test_sigterm_keeps_what_is_whole_and_the_next_process_goes_on(world: World) -> None:
    ids = [f"many-{i:03d}" for i in range(120)]
    instructions = world.instructions("many", [(id, picture(i), QUESTION) for i, id in enumerate(ids)])
    config = sampling_config(world, instructions, "samples-terminated").model_copy(
        update={"decoding": Decoding(max_new_tokens=60)}
    )
    folder = Path(shard_uri(config, 0))

    process = start(world, config)
    while not (folder / "part-00001.parquet").exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == ExitCode.TERMINATED, (world.folder / "stage.log").read_text()[-3000:]
    before = {row["id"] for row in stored(config)}
    assert 0 < len(before) < len(ids)
    assert not (folder / "manifest.json").exists()

    process = start(world, config)
    assert process.wait(900) == ExitCode.DONE, (world.folder / "stage.log").read_text()[-3000:]
    assert sorted(keys(stored(config))) == [(id, candidate) for id in ids for candidate in range(3)]
    assert (folder / "manifest.json").exists()


def start(world: World, config: SamplingConfig) -> subprocess.Popen[bytes]:
    file = world.folder / "config.json"
    file.write_text(config.model_dump_json())
    environment = {
        **os.environ,
        CACHE_VARIABLE: str(world.folder / "cache"),
        TERMINATION_LOG_VARIABLE: str(world.folder / "termination-log"),
    }
    with (world.folder / "stage.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "feedback_workloads", "sampling", "--config", str(file)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip


# ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def sample_row(id: str, candidate: int, answer: str) -> Row:
    return {
        "id": id, "candidate": candidate, "question": QUESTION, "answer": answer, "token_ids": [1], "logprobs": [0.0],
        "temperature": 0.7, "seed": 1, "finish_reason": "stop", "prompt_tokens": 1,
    }  # fmt: skip


TOLD = {
    ("a", 0): "A cat sits. It is red.",
    ("a", 1): "",
    ("b", 0): "Mr. Cat sits! Does it?",
    ("b", 1): "A cat sits. It is red.",
}


@pytest.fixture(scope="module")
def told(world: World) -> Artifact:
    return world.given("told", SAMPLES, [sample_row(*key, answer) for key, answer in TOLD.items()])


def splitting_config(world: World, told: Artifact, output: str, **options: Any) -> SplittingConfig:
    return SplittingConfig(
        output=str(world.folder / output),
        max_rejected_fraction=1.0,
        samples=(told,),
        part_rows=1,
        engine=ENGINE,
        **options,
    )


def run_claims(world: World, config: SplittingConfig) -> Outcome:
    return splitting.run(config, 0, world.store, Progress("splitting"))


def test_each_sentence_is_a_claim(world: World, told: Artifact) -> None:
    config = splitting_config(world, told, "splitting", question_template="Is it so that {claim}? Yes or no.")
    outcome = run_claims(world, config)
    assert {(row["id"], row["candidate"]): row["claims"] for row in stored(config)} == {
        ("a", 0): ["A cat sits.", "It is red."],
        ("a", 1): [],
        ("b", 0): ["Mr. Cat sits!", "Does it?"],
        ("b", 1): ["A cat sits.", "It is red."],
    }
    assert stored(config)[0]["questions"] == [
        "Is it so that A cat sits? Yes or no.",
        "Is it so that It is red? Yes or no.",
    ]
    assert outcome.metrics == {"mean_claims": 1.5}


def test_the_whole_answer_is_one_claim(world: World, told: Artifact) -> None:
    config = splitting_config(world, told, "claims-whole", splitter=WholeAnswer())
    run_claims(world, config)
    assert {(row["id"], row["candidate"]): row["claims"] for row in stored(config)} == {
        key: [answer] if answer else [] for key, answer in TOLD.items()
    }


def test_rules_need_neither_torch_nor_vllm(world: World, told: Artifact) -> None:
    config = splitting_config(world, told, "claims-light")
    program = """
import sys
from pathlib import Path
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.contract import STAGE_CONFIG
from feedback_workloads.process.progress import Progress
from feedback_workloads.stages import splitting
splitting.run(STAGE_CONFIG.validate_json(sys.argv[1]), 0, ArtifactStore(Path(sys.argv[2])), Progress("splitting"))
assert not {"torch", "vllm", "transformers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program, config.model_dump_json(), str(world.folder / "cache")], check=True)
    assert len(stored(config)) == len(TOLD)


def test_a_text_model_divides_and_asks(world: World) -> None:
    facts = ("A cat sits.", "It is red.")

    def divide(answer: str) -> str:
        return DIVIDE_PROMPT.format(question=QUESTION, answer=answer)

    tiny_llm(
        world.folder / "llm",
        {
            divide("It is a red cat, it sits."): bullets(facts),
            divide("I like it!"): "NONE",
            divide("Who knows?"): "I cannot say.",
            CONVERT_PROMPT.format(claims=bullets(facts)): "- Does a cat sit?\n- Is it red?",
        },
    )
    answers = ["It is a red cat, it sits.", "I like it!", "Who knows?", "It is a red cat, it sits.", "la " * 2000]
    given = world.given("told-llm", SAMPLES, [sample_row("a", i, answer) for i, answer in enumerate(answers)])
    splitter = LLMSplitter(
        model=Source(uri=str(world.folder / "llm")), decoding=Decoding(temperature=0.0, max_new_tokens=64)
    )
    config = splitting_config(world, given, "claims-llm", splitter=splitter).model_copy(
        update={"engine": EngineConfig(max_model_len=2048, max_num_seqs=16)}
    )
    outcome = run_claims(world, config)
    questions = [f"Does a cat sit? {REQUEST}", f"Is it red? {REQUEST}"]
    assert stored(config) == [
        {"id": "a", "candidate": 0, "claims": list(facts), "questions": questions},
        {"id": "a", "candidate": 1, "claims": [], "questions": []},
        {"id": "a", "candidate": 3, "claims": list(facts), "questions": questions},
    ]
    assert {row["candidate"]: row["reason"] for row in stored(config, "rejected")} == {
        2: "unparsable-claims",
        4: "prompt-too-long",
    }
    assert outcome.counts["rejected"] == 2


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


ASKED = {
    ("good-0", 0): ["Is it red?", "Is it blue?"],
    ("good-0", 1): ["Is it blue?", "Is it blue?", "Is it green?"],
    ("good-0", 2): [],
    ("good-1", 0): ["Is it red?"],
    ("good-1", 1): ["Is it " + "very " * 300 + "red?", "Is it blue?"],
    ("truncated", 0): ["Is it red?"],
    ("truncated", 1): [],
    ("gone", 0): ["Is it red?"],
}


@pytest.fixture(scope="module")
def judged(world: World, mixed: Source) -> tuple[LabelingConfig, Outcome]:
    rows = [
        {"id": id, "candidate": candidate, "claims": asked, "questions": asked}
        for (id, candidate), asked in ASKED.items()
    ]
    config = LabelingConfig(
        output=str(world.folder / "labeling"),
        max_rejected_fraction=1.0,
        claims=(world.given("asked", CLAIMS, rows),),
        instructions=mixed,
        model=world.model,
        min_yes_no_mass=0.0,  # a model of random weights says anything
        part_rows=1,
        engine=ENGINE,
    )
    return config, labeling.run(config, 0, world.store, Progress("labeling"))


def test_one_verdict_a_claim(judged: tuple[LabelingConfig, Outcome]) -> None:
    found = {(row["id"], row["candidate"]): row for row in stored(judged[0])}
    assert {key: len(row["accepted"]) for key, row in found.items()} == {
        ("good-0", 0): 2,
        ("good-0", 1): 3,
        ("good-0", 2): 0,
        ("good-1", 0): 1,
        ("truncated", 1): 0,
    }
    for row in found.values():
        triples = list(zip(row["p_yes"], row["p_no"], row["accepted"], strict=True))
        assert all(0 < yes < 1 and 0 < no < 1 and accepted == (yes > no) for yes, no, accepted in triples)
    first, second = found["good-0", 0], found["good-0", 1]
    assert first["p_yes"][1] == second["p_yes"][0] == second["p_yes"][1], "asked once"
    assert first["p_yes"][0] != found["good-1", 0]["p_yes"][0], "the picture matters"


def test_what_cannot_be_judged_is_rejected(judged: tuple[LabelingConfig, Outcome]) -> None:
    config, outcome = judged
    assert {(row["id"], row["candidate"]): row["reason"] for row in stored(config, "rejected")} == {
        ("good-1", 1): "prompt-too-long",
        ("truncated", 0): "undecodable-picture",
        ("gone", 0): "missing-instruction",
    }
    accepted = [accepted for row in stored(config) for accepted in row["accepted"]]
    masses = [yes + no for row in stored(config) for yes, no in zip(row["p_yes"], row["p_no"], strict=True)]
    assert outcome.metrics == {
        "accepted": pytest.approx(sum(accepted) / len(accepted)),
        "yes_no_mass": pytest.approx(sum(masses) / len(masses)),
    }


def test_a_labeler_without_yes_is_named(world: World, mixed: Source) -> None:
    folder = tiny_llava(world.folder / "silent", seed=3)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] = {
        token.replace("yes", "yea").replace("Yes", "Yea"): i for token, i in tokenizer["model"]["vocab"].items()
    }
    tokenizer["model"]["merges"] = [
        [piece.replace("yes", "yea").replace("Yes", "Yea") for piece in merge]
        for merge in tokenizer["model"]["merges"]
        if merge not in (["ye", "s"], ["Ye", "s"])
    ]
    file.write_text(json.dumps(tokenizer))
    rows = [{"id": "good-0", "candidate": 0, "claims": ["x"], "questions": ["Is it?"]}]
    config = LabelingConfig(
        output=str(world.folder / "verdicts-silent"),
        max_rejected_fraction=1.0,
        claims=(world.given("asked-silent", CLAIMS, rows),),
        instructions=mixed,
        model=Source(uri=str(folder)),
        engine=ENGINE,
    )
    with pytest.raises(BadInput, match="has no single token for yes and no; name another labeler"):
        labeling.run(config, 0, world.store, Progress("labeling"))


def test_the_stages_follow_each_other(world: World, mixed: Source, sampled: tuple[SamplingConfig, Outcome]) -> None:
    """What a random model says goes through all three stages, whatever it is."""
    published = world.publish(*sampled)
    divided = splitting_config(world, published, "chain-claims")
    config = LabelingConfig(
        output=str(world.folder / "chain-verdicts"),
        max_rejected_fraction=1.0,
        claims=(world.publish(divided, run_claims(world, divided)),),
        instructions=mixed,
        model=world.model,
        min_yes_no_mass=0.0,
        part_rows=3,
        engine=ENGINE,
    )
    outcome = labeling.run(config, 0, world.store, Progress("labeling"))
    assert keys(stored(config)) == keys(stored(sampled[0]))
    assert outcome.counts["rejected"] == 0
