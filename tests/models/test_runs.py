"""A whole run of each of the paper's kinds of models, and of later ones: `feedback run`, then a server of what it made.

The models say nothing that has a meaning, so what is looked at is that every stage and the server take the model, and
that what is served was trained: its rewards are not 0.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from feedback_workloads.report.iteration import Iteration
from feedback_workloads.rows.pair_files import asked_in
from feedback_workloads.rows.schemas import IMAGE, MESSAGES
from feedback_workloads.shapes.build import write_rows
from feedback_workloads.shapes.world import png, rows
from tests.integration.conftest import S3
from tests.integration.models import picture, tiny_llava
from tests.integration.servers import Server
from tests.integration.worlds import SmallWorld, publish
from tests.models import original_llava, original_omnilmm
from tests.models.builders import internvl, llava_next, llava_onevision, qwen3_vl, smolvlm


def llava_llama(folder: Path) -> Path:
    """LLaVA-1.5 as its authors published it."""
    return original_llava.write(folder, "safetensors", files=1, unfrozen=True).folder


def omnilmm(folder: Path) -> Path:
    """OmniLMM as its authors published it."""
    return original_omnilmm.write(folder).folder


def attentive(folder: Path, build: Callable[[Path], Path] = tiny_llava) -> Path:
    """A labeler whose verdicts are as random as others', but not the same whatever it is asked."""
    import torch
    from safetensors.torch import load_file, save_file

    file = build(folder) / "model.safetensors"
    weights = load_file(file)
    with torch.no_grad():
        for name in weights:
            if "language_model" in name and "o_proj" in name:
                weights[name] *= 5
    save_file(weights, file, {"format": "pt"})
    return folder


MODELS: Final[dict[str, Callable[[Path], Path]]] = {
    "OmniLMM": omnilmm,
    "LLaVA-1.5": tiny_llava,
    "LLaVA-1.5 as first published": llava_llama,
    "LLaVA-NeXT": llava_next,
    "Qwen3-VL": qwen3_vl,
    "InternVL": internvl,
    "SmolVLM2": smolvlm,
    "LLaVA-OneVision": llava_onevision,
}


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", MODELS)
def test_from_samples_to_a_server(name: str, s3: S3, tmp_path: Path) -> None:
    shown: Any = [picture_part(1), {"type": "text", "text": "What is it?"}]
    models = {"policy": MODELS[name], "labeler": attentive}
    check_a_run(s3, tmp_path, models, write_rows(rows(0, "instructions", 16)), [{"role": "user", "content": shown}])


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_two_pictures_and_two_turns_from_samples_to_a_server(s3: S3, tmp_path: Path) -> None:
    models = {"policy": qwen3_vl, "labeler": partial(attentive, build=qwen3_vl)}
    messages: Any = [
        {"role": "user", "content": [picture_part(1), {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A red block."},
        {"role": "user", "content": [picture_part(2), {"type": "text", "text": "And is there one here?"}]},
    ]
    check_a_run(s3, tmp_path, models, conversations(32), messages)

    pairing = Iteration.read(tmp_path / "out" / "iteration.json").stage("pairing")
    assert pairing is not None
    for row in s3.store.pairs(pairing.artifacts):
        turns, pictures = asked_in(row)
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert len(set(pictures)) == 2
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Assistant: I see nothing." in report
    assert 'alt="Picture 2 that is asked about"' in report


def conversations(number: int) -> bytes:
    """Instructions of two turns, each about a picture of its own, as a file of parquet."""
    scenes = rows(0, "instructions", number)
    data = [
        {
            "id": one.id,
            "images": [{"bytes": png(shown.scene), "path": None} for shown in (one, other)],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": one.question}]},
                {"role": "assistant", "content": [{"type": "text", "text": "I see nothing."}]},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": other.question}]},
            ],
        }
        for one, other in zip(scenes[::2], scenes[1::2], strict=True)
    ]
    sink, schema = (
        pa.BufferOutputStream(),
        pa.schema({"id": pa.string(), "images": pa.list_(IMAGE), "messages": MESSAGES}),
    )
    pq.write_table(pa.Table.from_pylist(data, schema), sink)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def picture_part(seed: int) -> dict[str, Any]:
    """A picture as a request shows it."""
    url = f"data:image/png;base64,{base64.b64encode(picture(seed)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def check_a_run(
    s3: S3, tmp_path: Path, models: Mapping[str, Callable[[Path], Path]], instructions: bytes, messages: Any
) -> None:
    """Run an iteration and serve what it made, which answers `messages`."""
    store = s3.store
    for part, build in models.items():
        uri = f"{s3.uri}/{part}"
        publish(store, uri, store.upload_folder(build(tmp_path / part), uri))
    benchmark = write_rows([*rows(0, "selection", 4), *rows(0, "report", 4)])
    for part, data in {"instructions": instructions, "benchmark": benchmark}.items():
        publish(store, f"{s3.uri}/{part}", (store.put(data, f"{s3.uri}/{part}", "data.parquet"),))
    file, out = tmp_path / "iteration.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(manifest(s3.uri)))

    command = [sys.executable, "-m", "feedback_operator.cli", "run", str(file)]
    ran = subprocess.run(
        [*command, "--state", str(tmp_path / "state"), "--out", str(out)],
        env={**os.environ, **s3.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pairs"]["count"] > 0

    serve = ("feedback_operator.cli", "serve", str(out), "--state", str(tmp_path / "state"))
    server = Server(tmp_path / "server.log", module=serve)
    try:
        answer = server.client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=8,
            seed=1,
            n=4,
            extra_body={"best_of": 4, "return_scores": True},
        )
    finally:
        server.stop()
    scores = [(choice.model_extra or {})["score"] for choice in answer.choices]
    rewards = [score["reward"] for score in scores]
    assert rewards == sorted(rewards, reverse=True)
    assert all(score["logp"] != score["ref_logp"] for score in scores)


def manifest(uri: str) -> dict[str, Any]:
    """One iteration of the model at `uri`/policy: answers that are cut off are not paired, so there is room to end."""
    return SmallWorld(uri).manifest(
        f"{uri}/iterations",
        sampling={"candidates": 32, "maxNewTokens": 200, "maxModelLen": 1024},
        labeling={"model": {"uri": f"{uri}/labeler"}, "maxModelLen": 1024, "minYesNoMass": "0"},
        pairing={"lengthBalance": "Disabled"},
        training={
            "learningRate": "0.001",
            "epochs": 1,
            "checkpointsPerEpoch": 1,  # the last one: the first step, which only warms up, moves nothing
            "globalBatchSize": 4,
            "perDeviceBatchSize": 4,
            "maxLength": 1024,
        },
    )
