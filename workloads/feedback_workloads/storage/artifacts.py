"""Where artifacts live: folders of verified files on S3 or on a disk, whole once their manifest.json is there.

Credentials, endpoint and region come from the standard AWS_* environment. What is downloaded is kept, by content, in
the folder that FEEDBACK_CACHE names.
"""

from __future__ import annotations

import copy
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from feedback_workloads.contract import (
    MANIFEST_NAME,
    Artifact,
    BadInput,
    FileEntry,
    Manifest,
    Source,
    Temporary,
    canonical_json,
)
from feedback_workloads.storage import hub
from feedback_workloads.storage.cache import Cache
from feedback_workloads.storage.objects import (
    Absent,
    Digest,
    FileObjects,
    Guarded,
    Listed,
    Objects,
    digest_of,
    join,
    local_path,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from feedback_workloads.rows.instruction_files import Survey
    from feedback_workloads.rows.instructions import Instruction
    from feedback_workloads.rows.rejected import Rejected
    from feedback_workloads.storage.parts import Parts

CACHE_VARIABLE = "FEEDBACK_CACHE"
SHAPES_URI = "s3://feedback/shapes"
SMALL_BYTES = 8 << 20
"""Files up to this size move several at a time; larger ones after one another, each in parallel parts."""
SMALL_AT_ONCE = 16
_RESTORE = "restore it, or move the folder aside and make the artifact anew"

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"})
"""Files of a model that hold weights, in whatever format it is published, too."""

Named = TypeVar("Named", FileEntry, Listed)
Item = TypeVar("Item")
Result = TypeVar("Result")


class ForeignManifest(BadInput):
    """A folder's manifest.json is not one that this project wrote, or is no longer."""


class ArtifactStore:
    """Reads and writes artifacts. URIs are `s3://bucket/prefix`, `file:///folder` or a local path.

    All methods raise BadInput for what a retry cannot mend (nothing there, no access, wrong digest) and Temporary for
    what it may (server out of reach after several attempts); both name the URI and the remedy. Safe to use from
    threads.
    """

    def __init__(self, cache: Path) -> None:
        """Make a store that keeps its downloads in the folder `cache`; connects to nothing yet."""
        self._cache = Cache(cache)
        self._files = FileObjects()
        self._s3: Objects | None = None
        self._connecting = threading.Lock()
        self._check: Callable[[], None] | None = None

    @classmethod
    def from_environment(cls) -> ArtifactStore:
        """Make a store from AWS_* and FEEDBACK_CACHE; connects to nothing yet."""
        default = Path(tempfile.gettempdir()) / f"feedback-cache-{os.getuid()}"
        return cls(Path(os.environ.get(CACHE_VARIABLE) or default))

    @property
    def cache(self) -> Path:
        """This machine's folder of downloads."""
        return self._cache.folder

    def guarded(self, check: Callable[[], None]) -> ArtifactStore:
        """This store, whose every change of an object calls `check` first, which raises where it must not happen."""
        store = copy.copy(self)
        store._check = check
        return store

    def objects(self, uri: str) -> Objects:
        """Return the backend that `uri` is read from and written to."""
        found = self._backend(uri)
        return Guarded(found, self._check) if self._check else found

    def _backend(self, uri: str) -> Objects:
        if not uri.startswith("s3://"):
            local_path(uri)
            return self._files
        with self._connecting:
            if self._s3 is None:
                from feedback_workloads.storage.s3 import S3Objects

                self._s3 = S3Objects()
            return self._s3

    # ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, uri: str) -> tuple[Manifest, Artifact] | None:
        """Return the manifest below the folder `uri` and the reference to it, or None where there is none yet.

        Raises ForeignManifest where the name is taken by a file of somebody else.
        """
        try:
            data = self.objects(uri).read(join(uri, MANIFEST_NAME))
        except Absent:
            return None
        return _parse_manifest(uri, data), Artifact(uri=uri, sha256=Digest.of(data).sha256)

    def manifest(self, ref: Artifact | Source) -> Manifest:
        """Read the manifest of `ref`; BadInput where there is none or its digest is not the one asked for."""
        manifest, _ = self._verified(ref)
        return manifest

    def _verified(self, ref: Artifact | Source) -> tuple[Manifest, Artifact]:
        try:
            found = self.find(ref.uri)
        except ForeignManifest as foreign:
            if isinstance(ref, Artifact):
                raise
            raise BadInput(
                f"the {MANIFEST_NAME} of {ref.uri} is not one of ours, so sha256 {ref.sha256} cannot be checked; "
                "leave sha256 out to take the folder as it is, or name the folder of an artifact"
            ) from foreign
        if found is None:
            raise BadInput(f"there is no artifact at {ref.uri} (it has no {MANIFEST_NAME}); {_remedy(ref.uri)}")
        _, artifact = found
        if ref.sha256 not in {None, artifact.sha256}:
            raise BadInput(
                f"the {MANIFEST_NAME} of {ref.uri} has SHA-256 {artifact.sha256}, not {ref.sha256} as asked for; "
                "give the digest that is there, or make the artifact anew"
            )
        return found

    def publish(self, uri: str, manifest: Manifest) -> Artifact:
        """Write the manifest, which makes the artifact whole: call it after every file is stored.

        The same manifest may already be there; a different one raises BadInput and stays.
        """
        data, name = manifest.encode(), join(uri, MANIFEST_NAME)
        if not self.objects(uri).create(name, data) and self.objects(uri).read(name) != data:
            raise BadInput(
                f"{name} is there already and differs from what this run made: another run was first; "
                "run the stage again to go on from that one"
            )
        return Artifact(uri=uri, sha256=Digest.of(data).sha256)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, data: bytes, uri: str, name: str, rows: int | None = None) -> FileEntry:
        """Store `data` as the file `name` below the folder `uri`."""
        self.objects(uri).write(join(uri, name), data)
        return _entry(name, Digest.of(data), rows)

    def upload(self, file: Path, uri: str, name: str, rows: int | None = None) -> FileEntry:
        """Store a local file as `name` below the folder `uri`; memory stays bounded whatever its size."""
        return _entry(name, self.objects(uri).upload(file, join(uri, name)), rows)

    def upload_folder(self, folder: Path, uri: str, prefix: str = "") -> tuple[FileEntry, ...]:
        """Store every file below `folder`, as `prefix` + its relative path, several at a time; ordered by name."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())

        def upload(file: Path) -> FileEntry:
            return self.upload(file, uri, prefix + file.relative_to(folder).as_posix())

        entries = _each(upload, files, size=lambda file: file.stat().st_size)
        return tuple(sorted(entries, key=lambda entry: entry.name))

    def download(self, ref: Artifact | Source, *, weights: bool = True) -> Path:
        """Return a local folder with every file of `ref`, each verified against the manifest's digest.

        Without `weights`, those files of a model need not be there: the others say which model it is. A local folder is
        returned as it is (verified where a digest was asked for); `hf://owner/name` is fetched at its revision
        (`hf://datasets/owner/name` for a data set); an S3 folder without a manifest of ours is taken as it is listed,
        unless a digest was asked for. The folder is shared by all callers: read it, never write to it.
        """
        if ref.uri.startswith("hf://"):
            revision = ref.revision if isinstance(ref, Source) else None
            ignored = () if weights else [f"*{suffix}" for suffix in sorted(WEIGHT_SUFFIXES)]
            return self._local(hub.fetch(ref.uri, revision, ignored), ref, weights)
        if not ref.uri.startswith("s3://"):
            return self._local(local_path(ref.uri), ref, weights)
        if ref.sha256:
            return self._fetch_artifact(*self._verified(ref), weights)
        with suppress(ForeignManifest):
            if found := self.find(ref.uri):
                return self._fetch_artifact(*found, weights)
        return self._fetch_listing(ref.uri, weights)

    def size(self, ref: Artifact | Source) -> int:
        """Bytes of all files of `ref`, as `download` would have them on this machine; raises what that would."""
        if ref.uri.startswith("hf://"):
            return hub.size(ref.uri, ref.revision if isinstance(ref, Source) else None)
        with suppress(ForeignManifest):
            if found := self.find(ref.uri):
                return sum(entry.bytes for entry in found[0].files)
        sizes = [listed.size for listed in self.objects(ref.uri).list(ref.uri)]
        if not sizes:
            raise BadInput(f"there is nothing at {ref.uri}; {_remedy(ref.uri)}")
        return sum(sizes)

    def download_file(self, uri: str) -> Path:
        """Return a local copy of one file on S3, kept like a folder's: read it, never write to it."""
        folder, _, name = uri.rpartition("/")
        objects = self.objects(uri)
        listed = next((one for one in objects.list(folder) if one.name == name), None)
        if listed is None:
            raise BadInput(f"there is no file {uri}; check the URI")

        def fetch(into: Path) -> None:
            if objects.download(uri, into / name, listed.size).size != listed.size:
                raise Temporary(f"the file {uri} changed while it was downloaded; try again")

        identity = canonical_json([uri, listed.size, listed.tag])
        return self._cache.get(Digest.of(identity).sha256, fetch) / name

    def _local(self, folder: Path, ref: Artifact | Source, weights: bool) -> Path:
        if not folder.is_dir():
            raise BadInput(f"there is no folder {ref.uri}; {_remedy(ref.uri)}")
        if ref.sha256 is not None:
            for entry in _wanted(self.manifest(ref.model_copy(update={"uri": str(folder)})).files, weights):
                file = folder / _safe(ref.uri, entry.name)
                _check(ref.uri, entry, _present(ref.uri, entry.name, partial(digest_of, file)))
        return folder

    def _fetch_artifact(self, manifest: Manifest, artifact: Artifact, weights: bool) -> Path:
        uri, objects = artifact.uri, self.objects(artifact.uri)
        files = (*_wanted(manifest.files, weights), FileEntry(name=MANIFEST_NAME, sha256=artifact.sha256, bytes=0))

        def fetch(folder: Path) -> None:
            def download(entry: FileEntry) -> None:
                read = partial(objects.download, join(uri, entry.name), _place(folder, uri, entry.name), entry.bytes)
                _check(uri, entry, _present(uri, entry.name, read))

            _each(download, files, size=lambda entry: entry.bytes)

        return self._cache.get(artifact.sha256 if weights else f"{artifact.sha256}-without-weights", fetch)

    def _fetch_listing(self, uri: str, weights: bool) -> Path:
        objects, files = self.objects(uri), _wanted(self.objects(uri).list(uri), weights)
        if not files:
            raise BadInput(f"there is nothing at {uri}; {_remedy(uri)}")

        def fetch(folder: Path) -> None:
            def download(listed: Listed) -> None:
                read = partial(objects.download, join(uri, listed.name), _place(folder, uri, listed.name), listed.size)
                with suppress(Absent):
                    if read().size == listed.size:
                        return
                raise Temporary(f"the file {listed.name} of {uri} changed while it was downloaded; try again")

            _each(download, files, size=lambda listed: listed.size)

        identity = canonical_json([uri, *([listed.name, listed.size, listed.tag] for listed in files)])
        return self._cache.get(Digest.of(identity).sha256, fetch)

    # ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def rows(
        self, refs: Sequence[Artifact], schema: pa.Schema, columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Stream the rows of the artifacts' part files, in order; at most a few parts are in memory.

        Each file is verified before a row of it is used. Raises BadInput naming file and column where a file is damaged
        or is not of `schema`. `columns` limits what is read.
        """
        from feedback_workloads.storage.parts import read_part

        for name, data in self._parts(refs):
            for batch in read_part(name, data, schema, columns).to_batches(max_chunksize=256):
                yield from batch.to_pylist()

    def pairs(self, refs: Sequence[Artifact], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Stream the rows of pairs, each of PAIRS or of PAIRS_OF_CONVERSATIONS, as `rows` does.

        `columns` limits what is read beside what is asked.
        """
        from feedback_workloads.rows.schemas import PAIRS, PAIRS_OF_CONVERSATIONS
        from feedback_workloads.storage.parts import columns_of, read_part

        for name, data in self._parts(refs):
            several = "messages" in columns_of(data)
            schema = PAIRS_OF_CONVERSATIONS if several else PAIRS
            asked = ("images", "messages") if several else ("image", "question")
            wanted = None if columns is None else [*asked, *columns]
            for batch in read_part(name, data, schema, wanted).to_batches(max_chunksize=256):
                yield from batch.to_pylist()

    def instructions(
        self, source: Source | Artifact, shard: int = 0, shards: int = 1
    ) -> Iterator[Instruction | Rejected]:
        """The rows of a data set of instructions, downloaded at once and read as they are asked for: see
        `read_instructions`."""
        from feedback_workloads.rows.instructions import read_instructions

        return read_instructions(self.download(source), source.uri, shard, shards)

    def survey(self, source: Source | Artifact) -> Survey:
        """What a data set of instructions has beyond one picture and one question a row; see `survey`."""
        from feedback_workloads.rows.instruction_files import survey

        return survey(self.download(source), source.uri)

    def read_table(self, refs: Sequence[Artifact], schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of the artifacts' part files as one table; see `rows`."""
        import pyarrow as pa

        from feedback_workloads.storage.parts import read_part, selected

        tables = [read_part(name, data, schema, columns) for name, data in self._parts(refs)]
        return pa.concat_tables([selected(schema, columns).empty_table(), *tables])

    def _parts(self, refs: Sequence[Artifact]) -> Iterator[tuple[str, bytes]]:
        """Yield URI and verified content of each part file, in order."""
        from feedback_workloads.storage.parts import is_part

        for ref in refs:
            for entry in self.manifest(ref).files:
                if is_part(entry.name):
                    yield join(ref.uri, entry.name), self.read(ref.uri, entry)

    def read(self, uri: str, entry: FileEntry) -> bytes:
        """Return the content of one file below the folder `uri`, verified."""
        data = _present(uri, entry.name, partial(self.objects(uri).read, join(uri, entry.name)))
        _check(uri, entry, Digest.of(data))
        return data

    @contextmanager
    def append(self, uri: str, schema: pa.Schema) -> Iterator[Parts]:
        """Open the folder `uri` for parts of `schema`, going on after those that an earlier process finished.

        What was written stays, however the block ends.
        """
        from feedback_workloads.storage.parts import Parts

        yield Parts(self.objects(uri), uri, schema)


def _wanted(files: Iterable[Named], weights: bool) -> list[Named]:
    return [file for file in files if weights or PurePosixPath(file.name).suffix not in WEIGHT_SUFFIXES]


def _each(action: Callable[[Item], Result], items: Iterable[Item], size: Callable[[Item], int]) -> list[Result]:
    """Run `action` on every item: small ones several at a time, large ones, parallel in themselves, one at a time."""
    items = list(items)
    small = [item for item in items if size(item) <= SMALL_BYTES]
    large = [item for item in items if size(item) > SMALL_BYTES]
    with ThreadPoolExecutor(SMALL_AT_ONCE) as pool:
        return [*pool.map(action, small), *map(action, large)]


def _present(uri: str, name: str, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except Absent as error:
        raise BadInput(
            f"the file {name} of {uri} is missing although its {MANIFEST_NAME} names it; {_RESTORE}"
        ) from error


def _check(uri: str, entry: FileEntry, found: Digest) -> None:
    if found.sha256 != entry.sha256:
        raise BadInput(
            f"the file {entry.name} of {uri} has SHA-256 {found.sha256} ({found.size} bytes), not {entry.sha256} "
            f"({entry.bytes} bytes): it was changed after it was made; {_RESTORE}"
        )


def _place(folder: Path, uri: str, name: str) -> Path:
    """Return where the artifact's file `name` goes below `folder`, with the folders on the way made."""
    file = folder / _safe(uri, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _safe(uri: str, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"the artifact {uri} has a file named {name}, outside its folder; do not use this artifact")
    return path


def _parse_manifest(uri: str, data: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ForeignManifest(
            f"{join(uri, MANIFEST_NAME)} is not a valid manifest of ours ({error.error_count()} errors, "
            f"first: {error.errors()[0]['msg']}): another program wrote it, or it was changed; "
            "restore it, or have the artifact made in another folder"
        ) from error


def _entry(name: str, digest: Digest, rows: int | None) -> FileEntry:
    return FileEntry(name=name, sha256=digest.sha256, bytes=digest.size, rows=rows)


def _remedy(uri: str) -> str:
    if uri.startswith(SHAPES_URI):
        return "run `feedback shapes` to build the shapes world"
    return "check the URI, or run the stage that makes it"
