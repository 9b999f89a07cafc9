"""The program that a pod of `feedback doctor` runs, on stores and hubs that fail in each way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feedback_workloads.contract import (
    RESULT_LIMIT_BYTES,
    BadInput,
    Look,
    Source,
    Temporary,
    TrialOrder,
    TrialReport,
)
from feedback_workloads.stages import trial
from feedback_workloads.storage import hub
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import FileObjects, Listed
from feedback_workloads.storage.s3 import S3Objects
from tests.loopback import serving
from tests.unit.stores import lead_to


class Unconditional(FileObjects):
    """A store that heeds no condition."""

    def create(self, uri: str, data: bytes) -> bool:
        self.write(uri, data)
        return True


class Forgetful(FileObjects):
    """A store that lists nothing for a while."""

    def list(self, uri: str) -> Iterator[Listed]:
        return iter(())


class Keeping(FileObjects):
    """A store that deletes nothing."""

    def delete(self, uri: str) -> None:
        return


def test_all_is_well_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.jsonl").write_text("{}")
    folder = tmp_path / "artifacts"
    order = TrialOrder(artifacts=str(folder), data=(Source(uri=str(tmp_path / "rows")),))
    report = trial.tried(order, ArtifactStore(tmp_path / "cache"))
    assert [(look.what.split()[0], look.problem) for look in report.looks] == [
        ("artifacts", ""),
        ("conditional", ""),
        ("data", ""),
    ]
    assert report.shared_memory_bytes > 0
    assert [file for file in folder.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(("store", "words"), [(Forgetful(), "does not list"), (Keeping(), "after it was deleted")])
def test_a_store_that_cannot_do_all_that_stages_ask(store: FileObjects, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words):
        trial.use(store, str(tmp_path))


def test_a_store_without_conditions_is_told_with_what_follows(tmp_path: Path) -> None:
    trial.use(Unconditional(), str(tmp_path))
    with pytest.raises(BadInput, match="two trainings of one address may begin together"):
        trial.compare(Unconditional(), str(tmp_path))


@pytest.mark.parametrize(("status", "heeds"), [(412, True), (501, False), (200, False)])
def test_whether_a_server_heeds_conditions_is_asked_of_it(
    status: int, heeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server(BaseHTTPRequestHandler):
        """Has an object, and answers each write of it with `status`."""

        def do_GET(self) -> None:
            self._answer(200, b"first")

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(status, b"")

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"tag"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    with serving(server):
        lead_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        assert S3Objects().heeds_conditions("s3://b/a/condition") is heeds


@contextmanager
def a_hub(code: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    with serving(server):
        yield


def test_a_hub_that_answers_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with a_hub(200, monkeypatch):
        assert trial.tried(TrialOrder(hub=True), store).looks == (Look(what="hub", severe=False),)
    [look] = trial.tried(TrialOrder(hub=True), store).looks
    assert "let the pods reach it" in look.problem


def test_a_hub_that_is_out_of_reach_is_told_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(_: Any, name: str, **given: Any) -> Any:
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    with pytest.raises(Temporary, match="cannot be reached for hf://datasets/a/b"):
        hub.size("hf://datasets/a/b", None)


def test_the_size_of_a_model_is_that_of_all_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [SimpleNamespace(size=10), SimpleNamespace(size=None), SimpleNamespace(size=5)]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    store = ArtifactStore(tmp_path / "cache")
    assert store.size(Source(uri="hf://a/b")) == 15
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"x" * 100)
    [look] = trial.tried(TrialOrder(models=(Source(uri=str(tmp_path / "model")),)), store).looks
    assert (look.problem, look.bytes) == ("", 102)


def test_however_much_is_wrong_the_report_fits_into_a_termination_message() -> None:
    looks = tuple(Look(what=f"data s3://bucket/{'x' * 40}/{number}", problem="y" * 900) for number in range(12))
    text = trial.fitted(TrialReport(looks=looks, shared_memory_bytes=1))
    assert len(text.encode()) <= RESULT_LIMIT_BYTES
    assert TrialReport.model_validate_json(text).looks[0].problem


def test_the_program_leaves_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FEEDBACK_TERMINATION_LOG", str(log))
    monkeypatch.setenv("FEEDBACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    missing = TrialOrder(data=(Source(uri=str(tmp_path / "none")),))
    assert trial.main([missing.model_dump_json()]) == 0
    [look] = json.loads(log.read_text())["looks"]
    assert "there is nothing at" in look["problem"]
