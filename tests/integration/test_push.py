"""`feedback push`: what it leaves loads in transformers and datasets with a line each."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.contract import BadInput, Manifest, Temporary
from feedback_workloads.report.push import publish
from feedback_workloads.storage import hub as hub_storage
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.integration.models import tiny_llava
from tests.integration.training_runs import study
from tests.loopback import serving

ROWS = 3


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that aligned a tiny model and was not evaluated."""
    root = tmp_path_factory.mktemp("run")
    trained, store = study(root, ROWS), ArtifactStore(root / "cache")
    base = tiny_llava(root / "base")
    (base / "README.md").write_text("---\nlicense: llama2\n---\nA model.\n")
    manifest = Manifest(
        stage="training",
        config={},
        config_hash="0" * 64,
        files=store.upload_folder(trained.model, str(root / "aligned")),
        counts={"rows": 0, "rejected": 0},
    )
    aligned = store.publish(str(root / "aligned"), manifest)
    pairing = {"uri": trained.pairs.uri, "sha256": trained.pairs.sha256, "counts": {"rows": ROWS}}
    out = root / "out"
    out.mkdir()
    for name in ("report.html", "summary.json"):
        (out / name).write_text(name)
    iteration = {
        "metadata": {"name": "first"},
        "spec": {"labeling": {"model": {"uri": str(root / "labeler")}}, "instructions": {"uri": "s3://b/i"}},
        "status": {
            "model": {"iteration": "", "uri": str(base)},
            "aligned": aligned.model_dump(),
            "stages": [{"name": "pairing", "state": "Done", "shards": [pairing]}],
        },
    }
    (out / "iteration.json").write_text(json.dumps(iteration))
    return out


def test_a_folder_loads_with_a_line_each(result: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy, pairs = publish(result, str(tmp_path / "published"), ArtifactStore(tmp_path / "cache"))
    model = AutoModelForImageTextToText.from_pretrained(policy)
    assert model.num_parameters() > 0
    assert AutoProcessor.from_pretrained(policy).chat_template
    loaded = load_dataset(pairs, split="train", cache_dir=str(tmp_path / "datasets"))
    assert [row["question"] for row in loaded] == [f"What is in picture {number}?" for number in range(ROWS)]
    assert loaded[0]["image"].size == (64, 64)
    assert "license: llama2" in (Path(policy) / "README.md").read_text()
    assert {"report.html", "summary.json", "iteration.json"} <= {file.name for file in Path(policy).iterdir()}


def test_a_folder_that_is_there_is_left_alone(result: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(BadInput, match="is there already; name a folder that is not"):
        publish(result, str(tmp_path / "mine"), ArtifactStore(tmp_path / "cache"))
    assert (tmp_path / "mine").read_text() == "mine"


def test_nothing_half_made_is_left(result: Path, tmp_path: Path) -> None:
    """Pairs that are gone show when the policy has its place already."""
    broken = tmp_path / "broken"
    shutil.copytree(result, broken)
    iteration = json.loads((result / "iteration.json").read_text())
    iteration["status"]["stages"][0]["shards"][0]["uri"] = str(tmp_path / "gone")
    (broken / "iteration.json").write_text(json.dumps(iteration))
    with pytest.raises(BadInput, match="gone"):
        publish(broken, str(tmp_path / "published"), ArtifactStore(tmp_path / "cache"))
    assert {one.name for one in tmp_path.iterdir()} <= {"broken", "cache"}


def test_a_run_without_its_report(result: Path, tmp_path: Path) -> None:
    (tmp_path / "iteration.json").write_bytes((result / "iteration.json").read_bytes())
    with pytest.raises(BadInput, match=r"there is no report\.html in it"):
        publish(tmp_path, str(tmp_path / "published"), ArtifactStore(tmp_path / "cache"))


def test_an_adapter_names_its_base_as_the_hub_does(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the adapter that was trained stays as it is."""

    def out_of_reach(uri: str, *_: object) -> Path:
        raise Temporary(f"{uri} is out of reach")

    monkeypatch.setattr(hub_storage, "fetch", out_of_reach)
    store, adapter = ArtifactStore(tmp_path / "cache"), tmp_path / "adapter"
    adapter.mkdir()
    trained = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "hf://owner/base"})
    (adapter / "adapter_config.json").write_text(trained)
    files = store.upload_folder(adapter, str(adapter))
    manifest = Manifest(stage="training", config={}, config_hash="0" * 64, files=files, counts={"rows": 0})
    iteration = json.loads((result / "iteration.json").read_text())
    iteration["status"]["aligned"] = store.publish(str(adapter), manifest).model_dump()
    iteration["status"]["model"] = {"uri": "hf://owner/base"}
    run = tmp_path / "run"
    shutil.copytree(result, run)
    (run / "iteration.json").write_text(json.dumps(iteration))
    policy, _ = publish(run, str(tmp_path / "published"), store)
    assert json.loads((Path(policy) / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    assert (adapter / "adapter_config.json").read_text() == trained


@dataclass
class Hub:
    """The part of the hub's API that takes commits: repositories with the files of each."""

    endpoint: str = ""
    refuses: bool = False
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            return 403, {"error": "You don't have the rights"}
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            self.files[name], self.private[name] = {}, given["visibility"] == "private"
            return 200, {"url": f"{self.endpoint}/{'datasets/' if given.get('type') == 'dataset' else ''}{name}"}
        if "/preupload/" in path:
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            return 200, {"files": files}
        if "/commit/" in path:
            name = path.removeprefix("/api/").partition("/")[2].partition("/commit/")[0]
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.files[name] |= {one["path"]: base64.b64decode(one["content"]) for one in files}
            return 200, {
                "commitUrl": f"{self.endpoint}/{name}/commit/1",
                "commitOid": "1",
                "hookOutput": "",
                "success": True,
            }
        return 200, {"errors": [], "warnings": []}


@pytest.fixture
def hub() -> Iterator[Hub]:
    there = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, value = there.answer(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        yield there


def push(result: Path, endpoint: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, since the hub's client reads its endpoint once."""
    command = [sys.executable, "-m", "feedback_workloads.report.push", f"--result={result}", "--to=hf://owner/aligned"]
    own = {"HF_HOME": str(folder), "FEEDBACK_CACHE": str(folder / "cache")}
    environment = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_x", **own}
    return subprocess.run(
        [*command, *options], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_the_hub_gets_two_repositories(result: Path, hub: Hub, tmp_path: Path) -> None:
    ended = push(result, hub.endpoint, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2
    assert hub.private == {"owner/aligned": True, "owner/aligned-pairs": True}
    assert {"README.md", "config.json", "model.safetensors", "report.html"} <= hub.files["owner/aligned"].keys()
    assert hub.files["owner/aligned-pairs"].keys() == {"README.md", "data/train-00000.parquet"}
    card = hub.files["owner/aligned-pairs"]["README.md"].decode()
    assert 'load_dataset("owner/aligned-pairs", split="train")' in card


def test_a_hub_that_refuses(result: Path, hub: Hub, tmp_path: Path) -> None:
    hub.refuses = True
    ended = push(result, hub.endpoint, tmp_path)
    assert ended.returncode == 2
    assert "refused to take owner/aligned (HTTP 403)" in ended.stderr
    assert ended.stderr.rstrip().endswith("set HF_TOKEN to a token that may write there")


def test_a_hub_out_of_reach(result: Path, tmp_path: Path) -> None:
    ended = push(result, "http://127.0.0.1:9", tmp_path)
    assert ended.returncode == 75
    assert "the Hugging Face hub cannot be reached for owner/aligned" in ended.stderr
