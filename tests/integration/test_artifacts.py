"""Artifacts on a real S3 server and on a disk: whole or absent, verified, shared, and robust against a bad network."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feedback_workloads.contract import (
    MANIFEST_NAME,
    Artifact,
    BadInput,
    FileEntry,
    Manifest,
    ShapesConfig,
    Source,
    Temporary,
)
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.rows.schemas import CLAIMS, IMAGE, PAIRS
from feedback_workloads.shapes.build import run as build
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.cache import Cache
from feedback_workloads.storage.objects import Absent, Digest, Objects
from feedback_workloads.storage.s3 import SINGLE_REQUEST_BYTES

from .conftest import S3
from .faults import Answer, Cut, Drop, Fault, FaultyProxy

MEGABYTE = 1 << 20


@pytest.fixture(params=["s3", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> S3:
    """An S3 folder, and a local one, with a store each."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return S3(f"file://{tmp_path}/place with space", tmp_path / "cache", {})


def manifest(files: Sequence[FileEntry] = (), **counts: int) -> Manifest:
    return Manifest(stage="splitting", config={}, config_hash="", files=tuple(files), counts={"rows": 0, **counts})


def claims(id: str, candidate: int = 0) -> dict[str, object]:
    return {"id": id, "candidate": candidate, "claims": ["a cat"], "questions": ["Is it a cat?"]}


def make_files(folder: Path) -> dict[str, bytes]:
    """Write files of all kinds of sizes and names; return their contents."""
    sizes = {"empty": 0, "small.json": 100, "deep/er/two words é.bin": 3000, "large.bin": SINGLE_REQUEST_BYTES * 2 + 7}
    contents = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return contents


def files_below(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ── whole or absent ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_comes_back_as_it_was(place: S3, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    contents = make_files(folder)
    assert place.store.find(place.uri) is None
    files = place.store.upload_folder(folder, place.uri, prefix="model/")
    assert place.store.find(place.uri) is None, "nothing is there before its manifest"
    artifact = place.store.publish(place.uri, manifest(files))
    assert place.store.find(place.uri) == (manifest(files), artifact)
    assert place.store.manifest(artifact) == manifest(files)
    expected = {f"model/{name}": data for name, data in contents.items()}
    expected[MANIFEST_NAME] = manifest(files).encode()
    assert [file.name for file in files] == sorted(set(expected) - {MANIFEST_NAME})
    found = place.store.download(artifact)
    assert files_below(found) == expected
    assert place.store.download(Source(uri=place.uri)) == found
    assert place.store.download(Source(uri=place.uri, sha256=artifact.sha256)) == found


def test_a_model_is_looked_at_without_its_weights(place: S3, tmp_path: Path) -> None:
    """And fetched whole afterwards: what was only looked at is not taken for it."""
    folder = tmp_path / "made"
    folder.mkdir()
    contents = {"config.json": b"{}", "model-00001-of-00001.safetensors": b"w" * 1000, "pytorch_model.bin": b"w"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    artifact = place.store.publish(place.uri, manifest(place.store.upload_folder(folder, place.uri)))
    seen = files_below(place.store.download(artifact, weights=False))
    if place.uri.startswith("s3://"):
        assert seen.keys() == {"config.json", MANIFEST_NAME}
    assert contents.items() <= files_below(place.store.download(artifact)).items()


def test_publishing_again_is_fine_and_publishing_something_else_is_not(place: S3) -> None:
    first = place.store.publish(place.uri, manifest(rows=1))
    assert place.store.publish(place.uri, manifest(rows=1)) == first
    with pytest.raises(BadInput, match=f"{re.escape(place.uri)}.* is there already and differs"):
        place.store.publish(place.uri, manifest(rows=2))
    assert place.store.find(place.uri) == (manifest(rows=1), first)


PUBLISH = """
import sys
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.contract import BadInput, Manifest
uri, rows = sys.argv[1:]
store = ArtifactStore.from_environment()
store.find(uri)  # connects
print("ready", flush=True)
sys.stdin.readline()
try:
    store.publish(uri, Manifest(stage="splitting", config={}, config_hash="", files=(), counts={"rows": int(rows)}))
    print("published")
except BadInput:
    print("refused")
"""


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        pytest.param([1, 1, 1], ["published"] * 3, id="the same manifest: all are content"),
        pytest.param([1, 2, 3], ["published", "refused", "refused"], id="different ones: exactly one stays"),
    ],
)
def test_processes_publish_at_the_same_time(place: S3, rows: list[int], outcome: list[str]) -> None:
    environment = {**os.environ, **place.environment}
    command = [sys.executable, "-c", PUBLISH, place.uri]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen([*command, str(number)], **pipes) for number in rows]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].strip() for process in processes]
    assert sorted(said) == outcome
    found, _ = place.store.find(place.uri)
    assert found.counts["rows"] == rows[said.index("published")]


UPLOAD = """
import sys
from pathlib import Path
from feedback_workloads.storage.artifacts import ArtifactStore
ArtifactStore.from_environment().upload(Path(sys.argv[1]), sys.argv[2], "large.bin")
"""


def test_a_killed_upload_leaves_nothing_to_see(s3: S3, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as stream:
        stream.truncate(200 * MEGABYTE)
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"]) as proxy:
        environment = {**os.environ, **s3.environment, "AWS_ENDPOINT_URL": proxy.url}
        process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(large), s3.uri], env=environment)
        proxy.wait_for_sent(30 * MEGABYTE)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert list(s3.store.objects(s3.uri).list(s3.uri)) == []
    assert s3.store.upload(large, s3.uri, "large.bin").bytes == 200 * MEGABYTE, "the next attempt is not in its way"


DOWNLOAD = """
import sys
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.contract import Source
print(ArtifactStore.from_environment().download(Source(uri=sys.argv[1])))
"""


def test_a_killed_download_is_never_taken_for_whole(s3: S3, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as stream:
        stream.truncate(100 * MEGABYTE)
    artifact = s3.store.publish(s3.uri, manifest([s3.store.upload(large, s3.uri, "large.bin")]))
    cut = [Cut(3 * MEGABYTE)] * 100  # the manifest passes, no range of the file ever ends
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"], cut) as proxy:
        environment = {**os.environ, **s3.environment, "AWS_ENDPOINT_URL": proxy.url}
        process = subprocess.Popen([sys.executable, "-c", DOWNLOAD, s3.uri], env=environment)
        partial = s3.cache / f"{artifact.sha256}.partial" / "large.bin"
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > 0):
            pass
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert partial.exists()
    assert not (s3.cache / artifact.sha256).exists()
    assert (s3.store.download(artifact) / "large.bin").stat().st_size == 100 * MEGABYTE
    assert not partial.exists()


def test_processes_share_one_download(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    make_files(tmp_path / "made")
    artifact = s3.store.publish(s3.uri, manifest(s3.store.upload_folder(tmp_path / "made", s3.uri)))
    environment = {**os.environ, **s3.environment}
    command = [sys.executable, "-c", DOWNLOAD, s3.uri]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert folders == {str(s3.cache / artifact.sha256)}
    assert sorted(file.name for file in s3.cache.iterdir()) == [artifact.sha256, f"{artifact.sha256}.lock"]


MEASURE = """
import resource, sys
from pathlib import Path
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.contract import Manifest
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
store, file, uri = ArtifactStore.from_environment(), Path(sys.argv[1]), sys.argv[2]
store.find(uri)
before = peak()
entry = store.upload(file, uri, "large.bin")
artifact = store.publish(uri, Manifest(stage="splitting", config={}, config_hash="", files=(entry,), counts={}))
store.download(artifact)
print(peak() - before)
"""


def test_memory_is_bounded_whatever_the_size_of_a_file(s3: S3, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as stream:
        stream.truncate(768 * MEGABYTE)
    environment = {**os.environ, **s3.environment}
    command = [sys.executable, "-c", MEASURE, str(large), s3.uri]
    grown = int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert grown < 250, f"{grown} MiB more at the peak for a file of 768 MiB"


# ── sources without a manifest ───────────────────────────────────────────────────────────────────────────────────────


def test_a_listed_folder_is_fetched_as_it_is(s3: S3) -> None:
    for name, data in {"config.json": b"{}", "sub/weights": b"w" * 1000}.items():
        s3.client.put_object(**s3.key(name), Body=data)
    folder = s3.store.download(Source(uri=s3.uri))
    assert files_below(folder) == {"config.json": b"{}", "sub/weights": b"w" * 1000}
    s3.client.put_object(**s3.key("model.safetensors"), Body=b"w")
    assert files_below(s3.store.download(Source(uri=s3.uri), weights=False)) == files_below(folder)
    s3.client.put_object(**s3.key("config.json"), Body=b"[]")
    assert (s3.store.download(Source(uri=s3.uri)) / "config.json").read_bytes() == b"[]", "a change is seen"


def test_a_local_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    make_files(tmp_path / "model")
    store = ArtifactStore(tmp_path / "cache")
    assert store.download(Source(uri=str(tmp_path / "model"))) == tmp_path / "model"
    assert store.download(Source(uri=f"file://{tmp_path}/model")) == tmp_path / "model"


@pytest.mark.parametrize(
    ("uri", "sha256", "message"),
    [
        pytest.param("s3://feedback/nowhere", None, "there is nothing at .*; check the URI", id="nothing there"),
        pytest.param("s3://feedback/shapes/world", None, "run `feedback shapes`", id="shapes not built"),
        pytest.param("s3://feedback/nowhere", "0" * 64, "it has no manifest.json", id="digest of nothing"),
        pytest.param("/no/such/folder", None, "there is no folder /no/such/folder", id="no local folder"),
        pytest.param("gs://bucket/prefix", None, "cannot use the URI gs://bucket/prefix", id="unknown scheme"),
        pytest.param("s3://feedback", None, "names no bucket and prefix", id="bucket without prefix"),
        pytest.param("s3://Bad_Bucket!/prefix", None, "is not valid", id="no name of a bucket"),
    ],
)
def test_what_is_not_there_is_named_with_a_remedy(s3: S3, uri: str, sha256: str | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        s3.store.download(Source(uri=uri, sha256=sha256))


def test_a_name_that_leads_out_of_the_artifact_is_refused(s3: S3) -> None:
    entry = s3.store.put(b"x", s3.uri, "x").model_copy(update={"name": "../x"})
    artifact = s3.store.publish(s3.uri, manifest([entry]))
    with pytest.raises(BadInput, match="outside its folder"):
        s3.store.download(artifact)


# ── what somebody else wrote ─────────────────────────────────────────────────────────────────────────────────────────

FOREIGN = {
    "of a web page": b'{"name": "Pictures", "version": "1.0", "icons": []}',
    "of another program": b'{"files": ["a.png"], "counts": 1, "stage": "train"}',
    "a list": b'[{"image": "a.png"}]',
    "empty": b"",
    "no text": b"\x89PNG\xff",
    "cut short": manifest().encode()[:50],
}
TABLE = {"a.jsonl": b'{"id": "1"}', "images/a.png": b"picture"}
DIGEST = "0" * 64


def lay(place: S3, files: Mapping[str, bytes]) -> None:
    objects = place.store.objects(place.uri)
    for name, data in files.items():
        objects.write(f"{place.uri}/{name}", data)


def lying(place: S3) -> dict[str, bytes]:
    objects = place.store.objects(place.uri)
    return {listed.name: objects.read(f"{place.uri}/{listed.name}") for listed in objects.list(place.uri)}


@pytest.mark.parametrize("own", FOREIGN.values(), ids=FOREIGN)
def test_a_data_folder_with_a_manifest_of_its_own_is_taken_as_it_is(place: S3, own: bytes) -> None:
    lay(place, {**TABLE, MANIFEST_NAME: own})
    assert files_below(place.store.download(Source(uri=place.uri))) == {**TABLE, MANIFEST_NAME: own}


@pytest.mark.parametrize("own", FOREIGN.values(), ids=FOREIGN)
def test_a_digest_that_a_foreign_manifest_cannot_have_is_the_one_thing_to_leave_out(place: S3, own: bytes) -> None:
    lay(place, {**TABLE, MANIFEST_NAME: own})
    for sha256 in (DIGEST, Digest.of(own).sha256):
        with pytest.raises(BadInput, match=r"is not one of ours.*leave sha256 out to take the folder as it is"):
            place.store.download(Source(uri=place.uri, sha256=sha256))


def append(place: S3) -> None:
    with place.store.append(place.uri, CLAIMS):
        pass


def read_rows(place: S3) -> None:
    list(place.store.instructions(Source(uri=place.uri)))


def read_artifact(place: S3) -> None:
    list(place.store.rows([place.store.find(place.uri)[1]], CLAIMS))


def build_shapes(place: S3) -> None:
    build(ShapesConfig(output=place.uri.removesuffix("/policy")), place.store, Progress("shapes"))


def named(name: str, data: bytes, said: bytes | None = None) -> dict[str, bytes]:
    """A file, and a manifest of ours that says it is `said`."""
    digest = Digest.of(data if said is None else said)
    entry = FileEntry(name=name, sha256=digest.sha256, bytes=digest.size, rows=1)
    return {name: data, MANIFEST_NAME: manifest([entry]).encode()}


def parquet(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


OWN = {MANIFEST_NAME: FOREIGN["of another program"]}
PART = "part-00000.parquet"


@pytest.mark.parametrize(
    ("files", "action"),
    [
        pytest.param(OWN, lambda place: place.store.find(place.uri), id="a stage looks for its artifact"),
        pytest.param(
            OWN,
            lambda place: place.store.manifest(Artifact(uri=place.uri, sha256=DIGEST)),
            id="a stage reads another's",
        ),
        pytest.param(OWN, lambda place: place.store.publish(place.uri, manifest()), id="a stage publishes"),
        pytest.param(
            OWN, lambda place: place.store.download(Source(uri=place.uri, sha256=DIGEST)), id="a source with a digest"
        ),
        pytest.param(
            {MANIFEST_NAME: manifest(rows=9).encode()},
            lambda place: place.store.publish(place.uri, manifest()),
            id="a stage publishes where another has",
        ),
        pytest.param(
            {MANIFEST_NAME: manifest().encode()},
            lambda place: place.store.download(Source(uri=place.uri, sha256=DIGEST)),
            id="a model with another digest",
        ),
        pytest.param(
            named("config.json", b"edited", said=b"made"),
            lambda place: place.store.download(place.store.find(place.uri)[1]),
            id="a model whose file was edited",
        ),
        pytest.param(
            {MANIFEST_NAME: named("config.json", b"made")[MANIFEST_NAME]},
            lambda place: place.store.download(place.store.find(place.uri)[1]),
            id="a model whose file was taken away",
        ),
        pytest.param(
            {MANIFEST_NAME: named("../config.json", b"")[MANIFEST_NAME]},
            lambda place: place.store.download(place.store.find(place.uri)[1]),
            id="a model with a file elsewhere",
        ),
        pytest.param({PART: b"no parquet"}, append, id="a stage goes on after a file that is no table"),
        pytest.param({PART: parquet(name=["a"])}, append, id="a stage goes on after a table of other columns"),
        pytest.param({PART: parquet(id=[1])}, append, id="a stage goes on after a table of other types"),
        pytest.param(named(PART, b"no parquet"), read_artifact, id="a table that is none"),
        pytest.param(named(PART, parquet(id=["1"])), read_artifact, id="a table of another stage"),
        pytest.param({}, read_rows, id="instructions: nothing"),
        pytest.param({"a.txt": b"x"}, read_rows, id="instructions: neither kind"),
        pytest.param({"a.jsonl": b"", "b.parquet": b""}, read_rows, id="instructions: both kinds"),
        pytest.param({"a.parquet": b"no parquet"}, read_rows, id="instructions: no parquet"),
        pytest.param({"a.jsonl": b'{"name": "x"}'}, read_rows, id="instructions: other columns"),
        pytest.param(OWN, build_shapes, id="shapes beside a model of somebody else"),
        pytest.param({MANIFEST_NAME: manifest().encode()}, build_shapes, id="shapes beside a model of a run"),
    ],
)
def test_no_advice_destroys_what_somebody_else_wrote(
    place: S3, files: dict[str, bytes], action: Callable[[S3], object]
) -> None:
    place = replace(place, uri=f"{place.uri}/policy")
    lay(place, files)
    with pytest.raises(BadInput) as said:
        action(place)
    assert not re.search("delet|remov|eras|overwrit|replac|clear", str(said.value)), said.value
    assert lying(place) == files, "nothing of it is lost"


def test_a_file_that_goes_while_it_is_downloaded_is_no_reason_to_delete_the_rest(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(s3, TABLE)
    get = Cache.get

    def late(cache: Cache, digest: str, fetch: Callable[[Path], None]) -> Path:
        s3.client.delete_object(**s3.key("a.jsonl"))
        return get(cache, digest, fetch)

    monkeypatch.setattr(Cache, "get", late)
    with pytest.raises(Temporary, match=r"the file a.jsonl of .* changed while it was downloaded; try again"):
        s3.store.download(Source(uri=s3.uri))


def test_a_folder_that_a_console_made_is_no_file(s3: S3) -> None:
    lay(s3, TABLE)
    for key in ("", "images/", "empty/"):
        s3.client.put_object(**s3.key(key), Body=b"")
    assert files_below(s3.store.download(Source(uri=s3.uri))) == TABLE


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parts_are_read_back_in_order(place: S3) -> None:
    artifacts = []
    for shard in range(2):
        uri = f"{place.uri}/shard-{shard}"
        with place.store.append(uri, CLAIMS) as parts:
            for part in range(3):
                parts.write([claims(f"{shard}-{part}", candidate) for candidate in range(2)])
            artifacts.append(place.store.publish(uri, manifest(parts.files())))
    expected = [(f"{shard}-{part}", candidate) for shard in range(2) for part in range(3) for candidate in range(2)]
    assert [(row["id"], row["candidate"]) for row in place.store.rows(artifacts, CLAIMS)] == expected
    table = place.store.read_table(artifacts, CLAIMS, columns=["candidate", "id"])
    assert table.column_names == ["candidate", "id"]
    assert list(zip(table["id"].to_pylist(), table["candidate"].to_pylist(), strict=True)) == expected
    assert place.store.read_table([], CLAIMS).schema == CLAIMS


def test_a_second_process_goes_on_after_the_finished_parts(place: S3) -> None:
    with place.store.append(place.uri, CLAIMS) as parts:
        parts.write([claims("a"), claims("a", 1)], [Rejected("b", None, "empty-question", "")])
    with place.store.append(place.uri, CLAIMS) as parts:
        assert parts.finished_ids() == {"a", "b"}
        with pytest.raises(ValueError, match="already in another part"):
            parts.write([claims("a", 2)])
        parts.write([claims("c")])
        assert parts.counts() == {"rows": 3, "rejected": 1, "rejected_empty-question": 1}
        assert [(file.name, file.rows) for file in parts.files()] == [
            ("part-00000.parquet", 2),
            ("rejected-00000.parquet", 1),
            ("part-00001.parquet", 1),
        ]


def test_two_writers_of_one_shard_are_told_apart(place: S3) -> None:
    with place.store.append(place.uri, CLAIMS) as one, place.store.append(place.uri, CLAIMS) as other:
        one.write([claims("a")])
        with pytest.raises(Temporary, match="let only one process run this shard"):
            other.write([claims("b")])
        one.write([claims("b")])
    with place.store.append(place.uri, CLAIMS) as parts:
        assert parts.finished_ids() == {"a", "b"}


# ── one at a time ────────────────────────────────────────────────────────────────────────────────────────────────────


def _replace(objects: Objects, name: str, tag: str, data: bytes) -> bool:
    return objects.replace(name, data, tag)


def test_of_many_that_replace_one_version_one_succeeds(place: S3) -> None:
    """What a lease rests on."""
    objects, name = place.store.objects(place.uri), f"{place.uri}/record.json"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(partial(objects.create, name), [b"first %d" % i for i in range(8)])).count(True) == 1
        for turn in range(5):
            seen = objects.version(name)
            contents = [b"turn %d, process %d" % (turn, i) for i in range(8)]
            replaced = list(pool.map(partial(_replace, objects, name, seen.tag), contents))
            assert replaced.count(True) == 1
            assert objects.read(name) == contents[replaced.index(True)]
    assert not objects.replace(f"{place.uri}/absent", b"late", seen.tag)
    with pytest.raises(Absent):
        objects.version(f"{place.uri}/absent")


# ── a bad network ────────────────────────────────────────────────────────────────────────────────────────────────────

SERVER_ERRORS = [Answer(500, "InternalError"), Answer(502, "BadGateway"), Answer(503, "ServiceUnavailable")]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(SERVER_ERRORS, id="server errors"),
        pytest.param([Answer(503, "SlowDown")], id="throttling"),
        pytest.param([Drop(), Drop(), Drop()], id="dropped connections"),
        pytest.param([Cut(1000), Cut(50_000)], id="answers cut short"),
    ],
)
def test_passing_trouble_is_overcome(s3: S3, faults: list[Fault], monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(0).randbytes(100_000)
    artifact = s3.store.publish(s3.uri, manifest([s3.store.put(data, s3.uri, "data")]))
    for action in ("upload", "download"):
        with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"], faults) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            if action == "upload":
                s3.store.put(data, s3.uri, "again")
            else:
                assert (s3.store.download(artifact) / "data").read_bytes() == data
            assert proxy.met
            monkeypatch.setenv("AWS_ENDPOINT_URL", s3.environment["AWS_ENDPOINT_URL"])
    assert s3.client.get_object(**s3.key("again"))["Body"].read() == data


def test_a_large_file_survives_a_network_that_breaks(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(random.Random(0).randbytes(40 * MEGABYTE))
    breaking = [Drop(), Cut(2 * MEGABYTE), Answer(503, "SlowDown"), Cut(MEGABYTE)]
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"], breaking) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        artifact = s3.store.publish(s3.uri, manifest([s3.store.upload(large, s3.uri, "large.bin")]))
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"], breaking) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert (s3.store.download(artifact) / "large.bin").read_bytes() == large.read_bytes()
        assert proxy.met == breaking


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        pytest.param(
            [Answer(503, "SlowDown")] * 9, "the S3 server was too busy for s3://.*SlowDown", id="throttled for long"
        ),
        pytest.param([Answer(500, "InternalError")] * 9, "the S3 server failed on s3://.*500", id="broken for long"),
        pytest.param([Drop()] * 9, "the S3 server cannot be reached for s3://", id="dropped for long"),
    ],
)
def test_lasting_trouble_is_temporary(
    s3: S3, faults: list[Fault], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"], faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(Temporary, match=message) as caught:
            s3.store.find(s3.uri)
        assert len(proxy.met) == 4, "two rounds of two attempts"
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_is_temporary(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with FaultyProxy(s3.environment["AWS_ENDPOINT_URL"]) as proxy:
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with pytest.raises(Temporary, match="check AWS_ENDPOINT_URL and that the server is up"):
        s3.store.find(s3.uri)


# ── other stores ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_of_the_hub_is_used(tmp_path: Path) -> None:
    for kind, name in (("models", "model"), ("datasets", "data")):
        repository = tmp_path / "hub" / f"{kind}--owner--{name}"
        (repository / "snapshots" / "abc").mkdir(parents=True)
        (repository / "snapshots" / "abc" / "config.json").write_text(name)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc")
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for uri, name in (("hf://owner/model", "model"), ("hf://datasets/owner/data", "data")):
        folder = run_download(uri, environment).stdout.strip()
        assert (Path(folder) / "config.json").read_text() == name


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        pytest.param("hf://owner/model", "Temporary: the Hugging Face hub cannot be reached", id="hub out of reach"),
        pytest.param("hf://a/b/c/d", "BadInput: the Hugging Face hub has no hf://a/b/c/d", id="no name of a model"),
    ],
)
def test_a_hub_that_does_not_answer(tmp_path: Path, uri: str, error: str) -> None:
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert error in run_download(uri, environment).stderr.splitlines()[-1]


def run_download(uri: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DOWNLOAD, uri]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_pairs_load_as_a_data_set_with_pictures(tmp_path: Path) -> None:
    from datasets import load_dataset

    picture = io.BytesIO()
    Image.new("RGB", (2, 3)).save(picture, "PNG")
    given = {pa.string(): "x", pa.int32(): 0, IMAGE: {"bytes": picture.getvalue(), "path": None}}
    row = {field.name: given.get(field.type, []) for field in PAIRS}
    with ArtifactStore(tmp_path / "cache").append(str(tmp_path / "pairs"), PAIRS) as parts:
        parts.write([row], [Rejected("y", None, "undecodable-picture", "")])
    files = str(tmp_path / "pairs" / "part-*.parquet")
    loaded = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "datasets"))
    assert loaded[0]["image"].size == (2, 3)
    assert set(loaded.column_names) == set(PAIRS.names)
