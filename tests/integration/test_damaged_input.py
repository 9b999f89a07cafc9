"""Damaged input and failing storage, through the real entry point: one sentence with a remedy, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_workloads.contract import (
    MANIFEST_NAME,
    Artifact,
    ExitCode,
    Manifest,
    SamplingConfig,
    Source,
    SplittingConfig,
    StageConfig,
    StageFailure,
)
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.schemas import CLAIMS, SAMPLES
from feedback_workloads.storage.objects import Digest

from .conftest import S3
from .faults import Drop, FaultyProxy
from .stage_logs import ACCOUNT


@dataclass(frozen=True)
class Ended:
    """How a stage process ended."""

    code: int
    output: str
    failure: StageFailure | None

    def check(self, code: ExitCode, *words: str) -> None:
        """It failed with `code`, and the one line it said, but for its account, names all of `words`."""
        assert self.code == code, self.output
        assert "Traceback" not in self.output
        assert self.failure is not None
        said = f"{self.failure.stage}: {self.failure.message}\n"
        assert ACCOUNT.sub("", self.output) == said, "nothing but one sentence"
        for word in words:
            assert word in self.failure.message


def run_stage(config: StageConfig, folder: Path, environment: dict[str, str], *prefix: str) -> Ended:
    """Run the stage's process on `config`; `prefix` is put before its command."""
    file, log = folder / "config.json", folder / "termination-log"
    file.write_text(config.model_dump_json())
    finished = subprocess.run(
        [*prefix, sys.executable, "-m", "feedback_workloads", config.stage, "--config", str(file)],
        env={**os.environ, **environment, "FEEDBACK_TERMINATION_LOG": str(log)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    failed = log.exists() and "reason" in json.loads(log.read_text())
    return Ended(
        finished.returncode,
        finished.stdout,
        StageFailure.model_validate_json(log.read_text()) if failed else None,
    )


def sample(id: str, answer: str = "A cat sits. A dog runs.") -> dict[str, object]:
    return {
        "id": id,
        "candidate": 0,
        "question": "What is there?",
        "answer": answer,
        "token_ids": [1, 2],
        "logprobs": [-0.5, -0.25],
        "temperature": 0.7,
        "seed": 1,
        "finish_reason": "stop",
        "prompt_tokens": 3,
    }


def publish(s3: S3, name: str, schema: pa.Schema, rows: list[dict[str, object]]) -> Artifact:
    uri = f"{s3.uri}/{name}"
    with s3.store.append(uri, schema) as parts:
        parts.write(rows)
        manifest = Manifest(stage=name, config={}, config_hash="", files=parts.files(), counts=parts.counts())
    return s3.store.publish(uri, manifest)


def splitting_config(s3: S3, samples: Artifact, output: str = "splitting") -> SplittingConfig:
    return SplittingConfig(output=f"{s3.uri}/{output}", samples=(samples,))


@pytest.fixture
def samples(s3: S3) -> Artifact:
    return publish(s3, "samples", SAMPLES, [sample(str(number)) for number in range(100)])


def test_undamaged_input_is_fine(s3: S3, samples: Artifact, tmp_path: Path) -> None:
    ended = run_stage(splitting_config(s3, samples), tmp_path, s3.environment)
    assert ended.code == ExitCode.DONE, ended.output


# ── artifacts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def change_a_byte(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        pytest.param("part-00000.parquet", change_a_byte, ["it was changed after it was made"], id="one byte changed"),
        pytest.param("part-00000.parquet", lambda data: data[:-1], ["it was changed"], id="truncated"),
        pytest.param("part-00000.parquet", lambda _: b"", ["(0 bytes)", "it was changed"], id="emptied"),
        pytest.param(MANIFEST_NAME, lambda data: data + b"\n", ["has SHA-256", "as asked for"], id="other manifest"),
        pytest.param(
            MANIFEST_NAME, lambda data: data[:50], ["is not a valid manifest", "restore it"], id="truncated manifest"
        ),
        pytest.param("part-00000.parquet", None, ["is missing although", "make the artifact anew"], id="file deleted"),
        pytest.param(MANIFEST_NAME, None, ["there is no artifact", "run the stage"], id="manifest deleted"),
    ],
)
def test_tampered_artifact(s3: S3, samples: Artifact, file: str, damage, words: list[str], tmp_path: Path) -> None:
    where = s3.key(f"samples/{file}")
    if damage is None:
        s3.client.delete_object(**where)
    else:
        data = s3.client.get_object(**where)["Body"].read()
        s3.client.put_object(**where, Body=damage(data))
    ended = run_stage(splitting_config(s3, samples), tmp_path, s3.environment)
    ended.check(ExitCode.BAD_INPUT, samples.uri, *words)
    assert s3.store.find(f"{s3.uri}/splitting/shard-00000-of-00001") is None


def test_artifact_of_the_wrong_stage(s3: S3, tmp_path: Path) -> None:
    row = {"id": "a", "candidate": 0, "claims": [], "questions": []}
    wrong = publish(s3, "samples", CLAIMS, [row])
    ended = run_stage(splitting_config(s3, wrong), tmp_path, s3.environment)
    ended.check(ExitCode.BAD_INPUT, f"{wrong.uri}/part-00000.parquet has no column 'question'", "claims, questions")


def test_column_of_the_wrong_type(s3: S3, tmp_path: Path) -> None:
    schema = SAMPLES.set(3, pa.field("answer", pa.int32()))
    wrong = publish(s3, "samples", schema, [{**sample("a"), "answer": 1}])
    ended = run_stage(splitting_config(s3, wrong), tmp_path, s3.environment)
    ended.check(ExitCode.BAD_INPUT, "the column 'answer' of", "has type int32, not string")


def test_part_that_is_no_parquet(s3: S3, tmp_path: Path) -> None:
    entry = s3.store.put(b"no parquet at all", f"{s3.uri}/samples", "part-00000.parquet", rows=1)
    manifest = Manifest(stage="sampling", config={}, config_hash="", files=(entry,), counts={"rows": 1, "rejected": 0})
    wrong = s3.store.publish(f"{s3.uri}/samples", manifest)
    ended = run_stage(splitting_config(s3, wrong), tmp_path, s3.environment)
    ended.check(ExitCode.BAD_INPUT, "part-00000.parquet is not a readable parquet file")


# ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_missing_bucket(s3: S3, samples: Artifact, tmp_path: Path) -> None:
    config = splitting_config(s3, samples).model_copy(update={"output": "s3://no-such-bucket/claims"})
    ended = run_stage(config, tmp_path, s3.environment)
    ended.check(ExitCode.BAD_INPUT, "the bucket no-such-bucket of s3://no-such-bucket/claims", "create it")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param({"AWS_SECRET_ACCESS_KEY": "wrong"}, ["SignatureDoesNotMatch"], id="wrong secret"),
        pytest.param({"AWS_ACCESS_KEY_ID": "nobody"}, ["InvalidAccessKeyId"], id="unknown key"),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, ["there are no S3 credentials"], id="no credentials"
        ),
    ],
)
def test_wrong_key(s3: S3, samples: Artifact, environment: dict[str, str], words: list[str], tmp_path: Path) -> None:
    own = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", **environment}
    ended = run_stage(splitting_config(s3, samples), tmp_path, {**s3.environment, **own})
    ended.check(ExitCode.BAD_INPUT, s3.uri, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", *words)


def test_endpoint_that_is_no_url(s3: S3, samples: Artifact, tmp_path: Path) -> None:
    environment = {**s3.environment, "AWS_ENDPOINT_URL": "localhost"}
    ended = run_stage(splitting_config(s3, samples), tmp_path, environment)
    ended.check(ExitCode.BAD_INPUT, "AWS_ENDPOINT_URL", "localhost")


def test_server_out_of_reach(s3: S3, samples: Artifact, tmp_path: Path) -> None:
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"], [Drop()] * 100) as proxy:
        environment = {**s3.environment, "AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "3"}
        ended = run_stage(splitting_config(s3, samples), tmp_path, environment)
    ended.check(ExitCode.TEMPORARY, s3.uri, "check AWS_ENDPOINT_URL")


# ── full disk ────────────────────────────────────────────────────────────────────────────────────────────────────────

ON_A_SMALL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && "$@"; code=$?; find "$0" -type f; exit $code'
"""Runs a command with a disk of a size mounted at a folder, then lists the files on it. The mount is the process's own:
it needs no root where users may have namespaces, and is gone afterwards."""


def on_a_small_disk(folder: Path, size: str) -> list[str]:
    folder.mkdir()
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, str(folder), size, str(folder)]


def test_full_disk_below_the_output(s3: S3, tmp_path: Path) -> None:
    long = publish(s3, "samples", SAMPLES, [sample(str(n), os.urandom(2000).hex()) for n in range(1000)])
    disk = tmp_path / "disk"
    config = SplittingConfig(output=f"{disk}/claims", samples=(long,))
    ended = run_stage(config, tmp_path, s3.environment, *on_a_small_disk(disk, "256k"))
    ended.check(ExitCode.TEMPORARY, "no space left on the disk that holds", str(disk), "part-00000.parquet")


@pytest.mark.parametrize("size", [3 << 20, 30 << 20], ids=["in one request", "in parts"])
def test_full_disk_below_the_cache(s3: S3, size: int, tmp_path: Path) -> None:
    s3.client.put_object(**s3.key("data/train.parquet"), Body=bytes(size))
    disk = tmp_path / "disk"
    config = SamplingConfig(
        output=f"{s3.uri}/samples",
        model=Source(uri="/nowhere"),
        instructions=Source(uri=f"{s3.uri}/data"),
    )
    environment = {**s3.environment, "FEEDBACK_CACHE": str(disk / "cache")}
    ended = run_stage(config, tmp_path, environment, *on_a_small_disk(disk, "2m"))
    *said, lock = ended.output.splitlines(keepends=True)
    assert lock.endswith(".lock\n"), "nothing of the download is left"
    Ended(ended.code, "".join(said), ended.failure).check(
        ExitCode.TEMPORARY, "no space left on the disk that holds", "train.parquet", "free some"
    )


# ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        pytest.param(
            {"id": ["a"], "image": [{"bytes": b"x", "path": None}], "prompt": ["What?"]},
            ["no column 'question'", "id, image, prompt"],
            id="question missing",
        ),
        pytest.param(
            {"name": ["a"], "image": [{"bytes": b"x", "path": None}], "question": ["What?"]},
            ["no column 'id' or 'ds_question_id'", "name, image, question"],
            id="id missing",
        ),
        pytest.param(
            {"id": ["a"], "image": [1.5], "question": ["What?"]},
            ["the column 'image' of", "has type double, not struct<bytes, path>"],
            id="image of the wrong type",
        ),
        pytest.param(
            {"id": ["a"], "image": [{"bytes": b"x", "path": None}], "question": [["What?"]]},
            ["the column 'question' of", "not a string"],
            id="question of the wrong type",
        ),
    ],
)
def test_wrong_column(s3: S3, columns: dict[str, list[object]], words: list[str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(pa.table(columns), data / "train.parquet")
    config = SamplingConfig(output=f"{s3.uri}/out", model=Source(uri="/nowhere"), instructions=Source(uri=str(data)))
    run_stage(config, tmp_path, s3.environment).check(ExitCode.BAD_INPUT, f"{data}/train.parquet", *words)


def test_damaged_rows_on_s3_are_rejected_and_counted(s3: S3) -> None:
    good = {"image": "picture.png", "question": "What?"}
    lines = [
        json.dumps({"id": "a", **good}).encode(),
        json.dumps({"id": "a", **good}).encode(),
        json.dumps({"id": "b", **good, "question": " "}).encode(),
        json.dumps({"id": "c", **good, "image": "elsewhere.png"}).encode(),
        b'{"id": "d\xff", "image": "picture.png", "question": "What?"}',
        b'{"id": "e", ',
        json.dumps({"id": "f", **good}).encode(),
    ]
    data = b"\n".join(lines)
    s3.client.put_object(**s3.key("train.jsonl"), Body=data)
    s3.client.put_object(**s3.key("picture.png"), Body=b"picture")
    source = Source(uri=s3.uri)
    rows = list(s3.store.instructions(source))
    assert [(row.id, None if isinstance(row, Instruction) else row.reason) for row in rows] == [
        ("a", None),
        ("train.jsonl:2", "duplicate-id"),
        ("b", "empty-question"),
        ("c", "missing-picture"),
        ("train.jsonl:5", "not-utf-8"),
        ("train.jsonl:6", "not-json"),
        ("f", None),
    ]
    assert Digest.of(rows[0].images[0]) == Digest.of(b"picture")
