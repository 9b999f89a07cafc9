"""Pairing on a real store: what it writes, refuses and counts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feedback_workloads.contract import Artifact, BadInput, Manifest, PairingConfig, Source, shard_uri
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.process.progress import Progress
from feedback_workloads.report.evidence import PAIRS_SHOWN, Claim, PairAnswer, find_pairs
from feedback_workloads.rows.schemas import CLAIMS, SAMPLES, VERDICTS
from feedback_workloads.stages import pairing
from feedback_workloads.stages.pairing import (
    Labelled,
    Verdicts,
    accuracy,
    calibration,
    judge_of,
    known_answers,
)
from feedback_workloads.storage.artifacts import ArtifactStore


@dataclass(frozen=True)
class Said:
    """One candidate answer: a claim a sentence, accepted or not."""

    text: str
    accepted: Sequence[bool] = ()
    claims: int | None = None  # their number; one for each verdict where it is not given
    finish_reason: str = "stop"


@dataclass
class Given:
    """The inputs of the stage in a folder, and the stage run on them."""

    folder: Path
    answers: dict[str, list[Said]]
    instructions: dict[str, str | None] = field(default_factory=dict)
    shards: int = 2

    def __post_init__(self) -> None:
        self.store = ArtifactStore(self.folder / "cache")
        self.instructions = self.instructions or dict.fromkeys(self.answers)
        self._write_instructions()

    def config(self, **options: Any) -> PairingConfig:
        return PairingConfig(
            output=str(self.folder / options.pop("output", "pairs")),
            samples=self._publish("samples", SAMPLES, self._samples()),
            claims=self._publish("claims", CLAIMS, self._claims()),
            verdicts=self._publish("verdicts", VERDICTS, self._verdicts()),
            instructions=Source(uri=str(self.folder / "instructions")),
            **options,
        )

    def run(self, **options: Any) -> Outcome:
        return self.run_config(self.config(**options))

    def run_config(self, config: PairingConfig) -> Outcome:
        return pairing.run(config, 0, self.store, Progress("pairing"))

    def rows(self, output: str = "pairs") -> list[dict[str, Any]]:
        folder = Path(shard_uri(self.config(output=output), 0))
        return [row for file in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]

    def bytes(self, output: str = "pairs") -> dict[str, bytes]:
        folder = Path(shard_uri(self.config(output=output), 0))
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    def statistics(self) -> dict[str, Any]:
        return json.loads(self.bytes()["statistics.json"])

    def _said(self) -> Iterable[tuple[str, int, Said]]:
        return ((id, i, said) for id, answers in self.answers.items() for i, said in enumerate(answers))

    def _samples(self) -> list[dict[str, Any]]:
        return [
            {
                "id": id,
                "candidate": i,
                "question": f"What of {id}?",
                "answer": said.text,
                "token_ids": [i, len(said.text)],
                "logprobs": [-0.5, -float(i)],
                "temperature": 0.7,
                "seed": i,
                "finish_reason": said.finish_reason,
                "prompt_tokens": 3,
            }
            for id, i, said in self._said()
        ]

    def _claims(self) -> list[dict[str, Any]]:
        numbers = [(id, i, len(said.accepted) if said.claims is None else said.claims) for id, i, said in self._said()]
        return [
            {"id": id, "candidate": i, "claims": [f"claim {n}" for n in range(number)], "questions": ["?"] * number}
            for id, i, number in numbers
        ]

    def _verdicts(self) -> list[dict[str, Any]]:
        return [
            {
                "id": id,
                "candidate": i,
                "p_yes": [0.5] * len(said.accepted),
                "p_no": [0.5] * len(said.accepted),
                "accepted": list(said.accepted),
            }
            for id, i, said in self._said()
        ]

    def _publish(self, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> tuple[Artifact, ...]:
        """One artifact for each shard."""
        found: list[Artifact] = []
        for shard in range(self.shards):
            uri = str(self.folder / name / str(shard))
            own = [row for row in rows if sum(row["id"].encode()) % self.shards == shard]
            with self.store.append(uri, schema) as parts:
                parts.write([row for row in own if row["id"] not in parts.finished_ids()])
                manifest = Manifest(stage=name, config={}, config_hash="", files=parts.files(), counts=parts.counts())
            found.append(self.store.publish(uri, manifest))
        return tuple(found)

    def _write_instructions(self) -> None:
        folder = self.folder / "instructions"
        folder.mkdir()
        rows = [
            {"id": id, "image": {"bytes": png(len(id)), "path": None}, "question": f"What of {id}?", "truth": truth}
            for id, truth in self.instructions.items()
        ]
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        schema = pa.schema([("id", pa.string()), ("image", image), ("question", pa.string()), ("truth", pa.string())])
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "train.parquet")


def png(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (size % 256, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


GOOD, BAD = Said("Good it is.", [True]), Said("Bad it is.", [False])


def test_rows_are_a_self_contained_preference_data_set(tmp_path: Path) -> None:
    given = Given(tmp_path, {"a": [Said("One. Two.", [False, True]), Said("Three. Four.", [True, True])]})
    outcome = given.run()
    assert given.rows() == [
        {
            "id": "a",
            "image": {"bytes": png(1), "path": None},
            "question": "What of a?",
            "chosen": "Three. Four.",
            "rejected": "One. Two.",
            "chosen_token_ids": [1, 12],
            "rejected_token_ids": [0, 9],
            "chosen_logps": [-0.5, -1.0],
            "rejected_logps": [-0.5, 0.0],
            "chosen_candidate": 1,
            "rejected_candidate": 0,
            "chosen_score": 0,
            "rejected_score": -1,
            "chosen_claims": ["claim 0", "claim 1"],
            "rejected_claims": ["claim 0", "claim 1"],
            "chosen_accepted": [True, True],
            "rejected_accepted": [False, True],
        }
    ]
    assert {entry.name for entry in outcome.files} == set(given.bytes())
    assert outcome.counts["rows"] == outcome.counts["balanced"] == 1


def test_the_report_shows_pairs_with_what_the_labeler_said_of_each_claim(tmp_path: Path) -> None:
    """As far as its verdicts are there."""
    answers = {id: [Said("One. Two.", [False, True]), Said("Three. Four.", [True, True])] for id in "abcdef"}
    given = Given(tmp_path, answers)
    config = given.config()
    outcome = given.run_config(config)
    manifest = Manifest(stage="pairing", config={}, config_hash="", files=outcome.files, counts={})
    pairs = given.store.publish(shard_uri(config, 0), manifest)
    shown = find_pairs(given.store, pairs, config.verdicts)
    rejected = PairAnswer("One. Two.", -1, [Claim("claim 0", False, 0.5), Claim("claim 1", True, 0.5)])
    chosen = PairAnswer("Three. Four.", 0, [Claim("claim 0", True, 0.5), Claim("claim 1", True, 0.5)])
    assert [(pair.chosen, pair.rejected) for pair in shown] == [(chosen, rejected)] * PAIRS_SHOWN
    assert {pair.images for pair in shown} == {(png(1),)}
    [first, *_] = find_pairs(given.store, pairs, [])
    assert [(claim.accepted, claim.p_yes) for claim in first.rejected.claims] == [(False, None), (True, None)]


def test_hugging_face_datasets_reads_the_pictures(tmp_path: Path) -> None:
    from datasets import load_dataset

    given = Given(tmp_path, {"a": [GOOD, BAD]})
    given.run()
    files = [str(file) for file in (tmp_path / "pairs").rglob("part-*.parquet")]
    row = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf"))[0]
    assert row["image"].size == (8, 8)
    assert row["chosen"] == GOOD.text


def test_funnel_counts_every_answer_once(tmp_path: Path) -> None:
    given = Given(
        tmp_path,
        {
            "a": [GOOD, BAD, Said("Cut", [True], finish_reason="length"), Said("Nothing claimed.")],
            "b": [GOOD, Said("Also good.", [True])],
            "c": [GOOD, BAD, Said("Bad too.", [False]), Said("And bad.", [False]), Said("Odd.", [True], claims=2)],
        },
    )
    outcome = given.run(max_rejected_fraction=1.0)
    funnel = given.statistics()["funnel"]
    assert funnel == {
        "instructions": 3,
        "candidates": 11,
        "truncated": 1,
        "unlabelled": 0,
        "mismatched": 1,
        "without_claims": 1,
        "scored": 8,
        "combinations": 4,
        "drawn": 3,
        "balanced": 3,
    }
    assert outcome.counts == {**funnel, "rows": 3, "rejected": 1, "rejected_verdict-count": 1}
    assert given.statistics()["scores"] == {"-1": 4, "0": 4}


def test_whole_answers_as_claims(tmp_path: Path) -> None:
    """The holistic ablation: one verdict an answer."""
    given = Given(tmp_path, {"a": [Said("x " * n, [n % 2 == 0]) for n in range(1, 7)]})
    given.run(pairs_per_instruction=99, length_balance=False)
    assert {(row["chosen_score"], row["rejected_score"]) for row in given.rows()} == {(0, -1)}
    assert len(given.rows()) == 9


def test_length_balance_can_be_switched_off(tmp_path: Path) -> None:
    long = Said("long " * 40, [False])
    given = Given(tmp_path, {"a": [GOOD, long], "b": [Said("Good it is, too.", [True]), BAD]})
    given.run(output="balanced")
    given.run(output="raw", length_balance=False)
    assert [row["id"] for row in given.rows("balanced")] == ["b"]
    assert [row["id"] for row in given.rows("raw")] == ["a", "b"]


def test_same_bytes_in_any_order_of_the_shards(tmp_path: Path) -> None:
    answers = {f"i{n}": [Said(f"{k} of {n}.", [k % 3 > 0, k % 2 > 0]) for k in range(8)] for n in range(20)}
    given = Given(tmp_path, answers, shards=3)
    first, second = given.config(output="first"), given.config(output="second")
    reordered = second.model_copy(
        update={"samples": second.samples[::-1], "claims": second.claims[::-1], "verdicts": second.verdicts[::-1]}
    )
    given.run_config(first)
    given.run_config(reordered)
    assert given.bytes("first") == given.bytes("second")


def test_another_seed_draws_other_pairs(tmp_path: Path) -> None:
    given = Given(tmp_path, {f"i{n}": [Said(f"{k} of {n}.", [k < 5]) for k in range(10)] for n in range(9)})
    given.run(output="first", length_balance=False)
    given.run(output="second", length_balance=False, seed=1)
    assert given.rows("first") != given.rows("second")


def test_a_killed_stage_goes_on_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "PART_PAIRS", 4)
    given = Given(tmp_path, {f"i{n}": [GOOD, BAD] for n in range(10)})
    given.run(output="whole")
    given.run(output="killed")
    folder = Path(shard_uri(given.config(output="killed"), 0))
    (folder / "statistics.json").unlink()
    (folder / "part-00002.parquet").unlink()
    given.run(output="killed")
    assert given.bytes("killed") == given.bytes("whole")
    assert len(given.rows("killed")) == 10


def test_agreement_with_the_truth(tmp_path: Path) -> None:
    given = Given(
        tmp_path,
        {
            "right": [Said("A cat.", [True]), Said("A dog.", [False])],
            "wrong": [Said("A dog.", [True]), Said("A cat.", [False])],
            "tied": [Said("A cat, here.", [True]), Said("One cat.", [False])],
            "unknown": [Said("A cat.", [True]), Said("A dog.", [False])],
        },
        instructions={"right": '["cat"]', "wrong": '["cat"]', "tied": '["cat"]', "unknown": None},
    )
    outcome = given.run(truth="coco-objects", length_balance=False)
    assert outcome.counts["rows"] == 4
    assert outcome.metrics["truth_agreement"] == pytest.approx(1 / 3)
    assert outcome.metrics["truth_ties"] == pytest.approx(1 / 3)
    assert outcome.metrics["labeler.answers_right"] == pytest.approx(1 / 2)
    assert given.statistics()["calibration"] == []  # no claim here names an object


def test_accuracy_of_the_labeler() -> None:
    answers = [
        labelled("known", 0, {"A cat.": 0.96, "A dog.": 0.04}),
        labelled("known", 1, {"A cat.": 0.25}),
        labelled("known", 2, {"Well.": 0.9, "Two dogs.": 1.0}),
        labelled("unknown", 0, {"A dog.": 0.9}),
    ]
    judge = judge_of("coco-objects", {"known": '["cat"]'})
    assert judge
    known = known_answers(answers, judge)
    assert accuracy(known) == {
        "labeler.true_claims_accepted": 1 / 2,
        "labeler.untrue_claims_rejected": 1 / 2,
        "labeler.answers_right": 1 / 3,
    }
    assert calibration(known) == [
        {"claims": 1, "p_yes": 0.04, "true": 0},
        {"claims": 1, "p_yes": 0.25, "true": 1},
        {"claims": 2, "p_yes": pytest.approx(0.98), "true": 1},
    ]
    assert (accuracy(known[3:]), calibration(known[3:])) == ({}, [])


def labelled(id: str, candidate: int, p_yes: Mapping[str, float]) -> Labelled:
    """An answer of these claims, accepted where yes is more probable than not."""
    verdicts = Verdicts([p > 0.5 for p in p_yes.values()], list(p_yes.values()))
    return Labelled((id, candidate), " ".join(p_yes), "stop", list(p_yes), verdicts)


def test_unreadable_truth_names_the_instruction(tmp_path: Path) -> None:
    given = Given(tmp_path, {"a": [GOOD, BAD]}, instructions={"a": "a cat"})
    with pytest.raises(BadInput, match="the truth of instruction 'a' is not one of coco-objects"):
        given.run(truth="coco-objects")


def test_a_pair_without_its_instruction_is_rejected(tmp_path: Path) -> None:
    given = Given(tmp_path, {"a": [GOOD, BAD], "b": [GOOD, BAD]}, instructions={"b": None})
    outcome = given.run()
    assert outcome.counts["rejected_missing-instruction"] == 1
    assert [row["id"] for row in given.rows()] == ["b"]


@pytest.mark.parametrize(
    ("answers", "options", "message"),
    [
        pytest.param([], {}, "the samples have no answers", id="nothing sampled"),
        pytest.param(
            [Said("Hm."), Said("Ha.")], {}, "none of 2 answers has a score .* 2 without claims", id="no claims"
        ),
        pytest.param([GOOD, GOOD], {}, "no two of 2 scored answers", id="all equal"),
        pytest.param(
            [GOOD, BAD],
            {"min_score_difference": 2},
            "minScoreDifference 2",
            id="too large a difference",
        ),
        pytest.param([GOOD, BAD], {"pairs_per_instruction": 0}, "perInstruction is 0", id="none drawn"),
        pytest.param([Said("", [True]), BAD], {}, "the length balance dropped all 1 pairs", id="none balanced"),
    ],
)
def test_no_pairs_says_which_step_left_none(
    tmp_path: Path, answers: list[Said], options: dict[str, Any], message: str
) -> None:
    given = Given(tmp_path, {"a": answers})
    with pytest.raises(BadInput, match=message):
        given.run(**options)
