"""Pairs that were made elsewhere, from RLAIF-V's own form to a policy that was trained on them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_workloads.contract import (
    BadInput,
    ExitCode,
    Manifest,
    Model,
    PairingConfig,
    PublishedPairs,
    Source,
    shard_uri,
)
from feedback_workloads.data.__main__ import main as data
from feedback_workloads.models.families import family_of
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.pair_files import asked_in
from feedback_workloads.rows.schemas import IMAGE, MESSAGES
from feedback_workloads.stages import pairing, published
from feedback_workloads.stages.preflight import main as preflight
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.training.batches.dataset import COLUMNS, prepare_row
from tests.integration.models import picture, tiny_llava, tiny_llm
from tests.integration.training_runs import Study

PAIRS = 8


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("models") / "llava")


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row of openbmb/RLAIF-V-Dataset."""
    return {
        "ds_name": "RLAIF-V",
        "image": {"bytes": picture(number), "path": f"{number}.jpg"},
        "question": f"What is shown in picture {number}?",
        "chosen": f"Two dogs, and {number} birds.",
        "rejected": f"A cat and {number + 1} cars on a street.",
        "origin_dataset": "COCO",
        "origin_split": json.dumps({"model": "LLaVA-1.5-7B", "type": "detailed description"}),
        "idx": str(1000 + number),
        "image_path": f"RLAIF-V_images/{number}.jpg",
        **changes,
    }


def published_file(folder: Path, rows: list[dict[str, Any]], name: str = "RLAIF-V-Dataset_000.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [pa.field(column, pa.string()) for column in rows[0] if column != "image"]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([*texts, ("image", IMAGE)])), folder / name)
    return folder


def config(folder: Path, model: Path, source: Path, **more: Any) -> PairingConfig:
    made = PublishedPairs(source=Source(uri=str(source)), model=Model(uri=str(model)))
    return PairingConfig(output=str(folder / "pairs"), published=made, **more)


def run(config: PairingConfig) -> Outcome:
    return pairing.run(config, 0, ArtifactStore(Path(config.output).parent / "cache"), Progress("pairing"))


def written(config: PairingConfig) -> list[dict[str, Any]]:
    files = sorted(Path(shard_uri(config, 0)).glob("part-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_rows_are_those_of_pairs_that_are_made_here(llava: Path, tmp_path: Path) -> None:
    """The answers are in the policy's tokens and end; what only a sampler knows is no number."""
    given = config(tmp_path, llava, published_file(tmp_path / "rlaif-v", [row(0), row(1)]))
    outcome = run(given)
    first, second = written(given)
    family = family_of(llava)
    assert (first["id"], first["question"], first["chosen"]) == ("1000", row(0)["question"], row(0)["chosen"])
    assert first["image"] == {"bytes": picture(0), "path": None}
    for side in ("chosen", "rejected"):
        ids = second[f"{side}_token_ids"]
        assert family.answer(ids) == second[side]
        assert ids[-1] in family.eos_ids
        assert len(second[f"{side}_logps"]) == len(ids)
        assert all(map(math.isnan, second[f"{side}_logps"]))
        assert (second[f"{side}_candidate"], second[f"{side}_score"], second[f"{side}_claims"]) == (-1, 0, [])
    assert outcome.counts == {"rows": 2, "rejected": 0, "published": 2, "balanced": 2}
    assert outcome.metrics == {"balanced.chosen_words": 5, "balanced.rejected_words": 8}
    statistics = json.loads((Path(shard_uri(given, 0)) / "statistics.json").read_text())
    assert statistics["funnel"] == {"published": 2, "balanced": 2}
    assert statistics["words"] == {"balanced": {"chosen": {"5": 2}, "rejected": {"8": 2}}}


TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    {"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},
]


def conversations(folder: Path, pictures: list[int], messages: Any) -> Path:
    """Pairs of turns, the second of them with these pictures and messages."""
    said = {"chosen": "It is red.", "rejected": "It is blue."}
    rows = [
        {"id": "1", "images": [{"bytes": picture(1)}], "messages": TURNS, **said},
        {"id": "2", "images": [{"bytes": picture(number)} for number in pictures], "messages": messages, **said},
    ]
    kinds = {"id": pa.string(), "images": pa.list_(IMAGE), "messages": MESSAGES}
    schema = pa.schema({**kinds, "chosen": pa.string(), "rejected": pa.string()})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "pairs.parquet")
    return folder


def test_pairs_of_conversations(llava: Path, tmp_path: Path) -> None:
    """They keep their turns, are read again, and are what the trainer's rows are made of."""
    given = config(tmp_path, llava, conversations(tmp_path / "turns", [2], TURNS))
    assert run(given).counts["rows"] == 2
    again = config(tmp_path / "again", llava, Path(shard_uri(given, 0)))
    run(again)
    for rows in (written(given), written(again)):
        assert [asked_in(row) for row in rows] == [(tuple(TURNS), (picture(number),)) for number in (1, 2)]
    store = ArtifactStore(tmp_path / "cache")
    manifest = Manifest(
        stage="pairing", config={}, config_hash="0" * 64, files=run(given).files, counts={}, versions={}
    )
    pairs = list(store.pairs([store.publish(shard_uri(given, 0), manifest)], COLUMNS))
    family = family_of(llava)
    first = prepare_row(pairs[0], family, max_length=2048)
    prompt = family.conversation(TURNS, [picture(1)])
    assert (first["prompt_ids"], first["pictures"]) == (family.expand(prompt.ids, *prompt.pictures), (picture(1),))


@pytest.mark.parametrize(
    ("pictures", "messages", "reason"),
    [
        pytest.param([2], TURNS[:2], "wrong-turns", id="no question at the end"),
        pytest.param([], TURNS, "missing-picture", id="no picture"),
        pytest.param([2], None, "missing-text", id="no turns"),
    ],
)
def test_conversations_that_cannot_be_used(
    llava: Path, tmp_path: Path, pictures: list[int], messages: Any, reason: str
) -> None:
    given = config(tmp_path, llava, conversations(tmp_path / "turns", pictures, messages), max_rejected_fraction=1.0)
    assert run(given).counts[f"rejected_{reason}"] == 1


def test_pairs_with_more_pictures_than_the_policy_takes(llava: Path, tmp_path: Path) -> None:
    two = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "?"}]}]
    with pytest.raises(BadInput, match=r"has 2 pictures, and spec\.model .* takes one alone"):
        run(config(tmp_path, llava, conversations(tmp_path / "turns", [2, 3], two)))


def test_what_was_converted_is_the_same(llava: Path, tmp_path: Path) -> None:
    """`feedback data convert rlaif-v` keeps the rows, and its folder has a digest to ask for."""
    source = published_file(tmp_path / "rlaif-v", [row(n) for n in range(3)])
    assert data(["convert", "rlaif-v", f"--from={source}", f"--to={tmp_path / 'converted'}"]) == 0
    store = ArtifactStore(tmp_path / "cache")
    artifact = store.find(str(tmp_path / "converted"))
    assert artifact
    raw, converted = config(tmp_path / "raw", llava, source), config(tmp_path / "made", llava, tmp_path / "converted")
    assert converted.published
    asked = converted.published.model_copy(
        update={"source": Source(uri=str(tmp_path / "converted"), sha256=artifact[1].sha256)}
    )
    run(raw)
    run(converted.model_copy(update={"published": asked}))
    rows, others = written(raw), written(converted)
    assert len(rows) == 3
    for one, other in zip(rows, others, strict=True):
        same = ("question", "chosen_token_ids", "rejected_token_ids")
        assert [one[name] for name in same] == [other[name] for name in same]
    wrong = asked.model_copy(update={"source": Source(uri=str(tmp_path / "converted"), sha256="0" * 64)})
    with pytest.raises(BadInput, match="not 0000000000"):
        run(config(tmp_path / "wrong", llava, source).model_copy(update={"published": wrong}))


def test_pairs_of_another_iteration_are_read_again(llava: Path, tmp_path: Path) -> None:
    first = config(tmp_path, llava, published_file(tmp_path / "rlaif-v", [row(0), row(1, idx="1000")]))
    run(first)
    assert [one["id"] for one in written(first)] == ["1000", "1000#2"], "two pairs of one question"
    again = config(tmp_path / "again", llava, Path(shard_uri(first, 0)))
    run(again)
    assert [one["id"] for one in written(again)] == ["1000", "1000#2"]


def test_rows_that_are_no_pairs_are_rejected_and_counted(llava: Path, tmp_path: Path) -> None:
    rows = [
        row(0),
        row(1, chosen=" "),
        row(2, question=None),
        row(3, rejected="Two dogs, and 3 birds."),
        row(4, image={"bytes": None, "path": "4.jpg"}),
        row(5, image=None),
    ]
    given = config(tmp_path, llava, published_file(tmp_path / "rlaif-v", rows))
    outcome = run(given)
    assert outcome.counts == {
        "rows": 1,
        "rejected": 5,
        "rejected_missing-text": 2,
        "rejected_identical-answers": 1,
        "rejected_missing-picture": 2,
        "published": 6,
        "balanced": 1,
    }
    rejected = pq.read_table(Path(shard_uri(given, 0)) / "rejected-00000.parquet").to_pylist()
    assert (rejected[0]["id"], rejected[0]["detail"]) == ("1001", "the column chosen holds ' ', where a text has to be")


def test_an_interrupted_stage_goes_on(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are stored stay, and the statistics are of all pairs."""
    monkeypatch.setattr(published, "PART_PAIRS", 2)
    source = published_file(tmp_path / "rlaif-v", [row(0), row(1, chosen=""), row(2), row(3), row(4)])
    whole, given = config(tmp_path / "whole", llava, source), config(tmp_path / "cut", llava, source)
    expected = run(whole)
    run(given)
    parts = sorted(Path(shard_uri(given, 0)).glob("part-*.parquet"))
    assert len(parts) == 3
    for file in parts[1:]:
        file.unlink()
    assert run(given) == expected
    assert repr(written(given)) == repr(written(whole)), "no number is not equal to itself"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            ["image"], r"RLAIF-V-Dataset_000.parquet has no column 'image' .* give pairs, or what", id="no pictures"
        ),
        pytest.param(["chosen"], "has no column 'chosen'", id="no pairs"),
        pytest.param(None, r"has no \*\.parquet; give the output of pairing", id="no file"),
    ],
)
def test_what_is_no_data_set_of_pairs(columns: list[str] | None, message: str, llava: Path, tmp_path: Path) -> None:
    folder = published_file(tmp_path / "rlaif-v", [row(0)])
    file = folder / "RLAIF-V-Dataset_000.parquet"
    if columns is None:
        file.unlink()
    else:
        pq.write_table(pq.read_table(file).drop_columns(columns), file)
    with pytest.raises(BadInput, match=message):
        run(config(tmp_path, llava, folder))


def test_where_no_pair_is_left(llava: Path, tmp_path: Path) -> None:
    source = published_file(tmp_path / "rlaif-v", [row(0, chosen="")])
    with pytest.raises(BadInput, match="has no pair that can be trained on; see what was rejected in"):
        run(config(tmp_path, llava, source))


def test_the_policy_is_looked_at_before_anything_runs(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by `feedback validate --models`, and by the stage itself before it reads a pair."""
    text = tiny_llm(tmp_path / "text", {})
    codes = []
    for model in (llava, text):
        (tmp_path / "config.json").write_text(config(tmp_path, model, tmp_path / "none").model_dump_json())
        codes.append(preflight(["--config", str(tmp_path / "config.json")]))
    told = capsys.readouterr()
    assert codes == [ExitCode.DONE, ExitCode.BAD_INPUT]
    assert told.out == f"spec.model {llava} can be trained\n"
    assert "which cannot be trained here" in told.err
    with pytest.raises(BadInput, match="which cannot be trained here"):
        run(config(tmp_path, text, tmp_path / "none"))


def test_a_policy_is_trained_on_them(llava: Path, tmp_path: Path) -> None:
    """References are those of the policy before training: rewards begin at 0, and the margin grows."""
    source = published_file(tmp_path / "rlaif-v", [row(n) for n in range(PAIRS)])
    given = config(tmp_path, llava, source)
    outcome = run(given)
    store = ArtifactStore(tmp_path / "cache")
    manifest = Manifest(
        stage="pairing", config=given.content(), config_hash="", files=outcome.files, counts=outcome.counts
    )
    pairs = store.publish(shard_uri(given, 0), manifest)
    study = Study(tmp_path, llava, pairs)
    trained = study.run("trained", reference="recomputed", parity_rows=0)
    assert trained.manifest.counts["rows"] == PAIRS
    assert trained.manifest.metrics["references_recomputed"] == 1
    first, last = trained.log[0], trained.log[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < first["loss"]
    assert last["reward_margin"] > 0
