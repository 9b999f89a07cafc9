"""Files of public data as they are published: folders and archives, read as one tree without being unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Final, cast

from feedback_workloads.contract import BadInput, Source
from feedback_workloads.rows.picture_texts import PICTURE_LIMIT_BYTES
from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.storage.artifacts import ArtifactStore

COMPRESSED_TARS: Final = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
DAMAGE: Final = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Found:
    """A file of the tree: its name, the number of what holds it, and where it is in a tar."""

    name: str
    holder: int
    offset: int
    size: int


class Tree:
    """Files below several folders, and in the archives among them, by their paths.

    Archives are zip and tar; a compressed tar is decompressed into `scratch` first, since nothing can be read from its
    middle. What is where is kept in a file there, so that memory does not grow with the number of pictures.
    """

    def __init__(self, roots: Sequence[Path], scratch: Path) -> None:
        """Look through the roots, each a folder or a file. Raises BadInput naming an archive that is damaged."""
        self._scratch = scratch
        self._holders: list[Path] = []
        self._index = sqlite3.connect(scratch / "tree.sqlite", isolation_level=None)
        self._index.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;"
            "CREATE TABLE files (base TEXT, name TEXT, holder INTEGER, offset INTEGER, size INTEGER);"
        )
        self._index.execute("BEGIN")
        for root in roots:
            self._add(root)
        self._index.execute("COMMIT")
        self._index.execute("CREATE INDEX by_base ON files (base)")
        self._zip = cache(zipfile.ZipFile)

    def find(self, *patterns: str) -> list[str]:
        """Names of the files whose last part is like one of the patterns (`*_questions.json`), ordered."""
        where = " OR ".join(["base GLOB ?"] * len(patterns))
        rows = self._index.execute(f"SELECT DISTINCT name FROM files WHERE {where} ORDER BY name", patterns)
        return [name for (name,) in rows if not any(part.startswith(".") for part in PurePosixPath(name).parts)]

    def need(self, what: str, *patterns: str) -> list[str]:
        """As `find`; BadInput, naming `what` is missing, where there is none."""
        if not (found := self.find(*patterns)):
            raise BadInput(
                f"there is no {what} ({' or '.join(patterns)}) in what --from names; add its place to --from"
            )
        return found

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file by a name that `find` gave, decompressed where it ends in .gz; BadInput where it is damaged."""
        try:
            with self._stream(self._named(name)) as raw:
                yield cast(BinaryIO, gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw)
        except (*DAMAGE, OSError) as error:
            raise BadInput(f"{name} cannot be read: {error}; check that it is complete") from error

    def local(self, name: str) -> Path:
        """A file on the disk with the content of a file of the tree."""
        found = self._named(name)
        holder = self._holders[found.holder]
        if holder.is_dir():
            return holder / found.name
        copy = self._scratch / f"{found.holder}-{found.offset}-{PurePosixPath(name).name}"
        if not copy.exists():
            with self.open(name) as stream, copy.open("wb") as file:
                shutil.copyfileobj(stream, file)
        return copy

    def picture(self, *paths: str) -> bytes:
        """The content of the first of the paths that is there; see `_place`. Raises BadRow."""
        found = next((found for path in paths if (found := self._place(path))), None)
        if found is None:
            raise BadRow("missing-picture", f"there is no file {paths[0]}")
        if found.size > PICTURE_LIMIT_BYTES:
            raise BadRow("picture-too-large", f"the file {found.name} has {found.size} bytes")
        try:
            with self._stream(found) as stream:
                data = stream.read()
        except (*DAMAGE, OSError) as error:
            raise BadRow("missing-picture", f"the file {found.name} cannot be read: {error}") from error
        if not data:
            raise BadRow("missing-picture", f"the file {found.name} is empty")
        return data

    def _place(self, path: str) -> Found | None:
        """The file that a path of public data means: one of the two is the end of the other.

        Data sets name `coco/train2017/1.jpg` what an archive has as `train2017/1.jpg`, and `1.jpg` what it has so, too.
        Of several, the one with the most in common, and the first by name.
        """
        wanted = PurePosixPath(path).parts
        if not wanted:
            return None
        rows = self._index.execute(
            "SELECT name, holder, offset, size FROM files WHERE base = ? ORDER BY name", (wanted[-1],)
        )
        best: Found | None = None
        most = 0
        for found in (Found(*row) for row in rows):
            parts = PurePosixPath(found.name).parts
            common = min(len(parts), len(wanted))
            if common > most and parts[-common:] == wanted[-common:]:
                best, most = found, common
        return best

    def _named(self, name: str) -> Found:
        row = self._index.execute(
            "SELECT name, holder, offset, size FROM files WHERE base = ? AND name = ?",
            (PurePosixPath(name).name, name),
        ).fetchone()
        return Found(*row)

    def _stream(self, found: Found) -> IO[bytes]:
        holder = self._holders[found.holder]
        if holder.is_dir():
            return (holder / found.name).open("rb")
        if holder.suffix == ".zip":
            return self._zip(holder).open(found.name)
        return io.BufferedReader(_Slice(holder, found.offset, found.size))

    def _add(self, root: Path) -> None:
        files = [root] if root.is_file() else (Path(at) / name for at, _, names in os.walk(root) for name in names)
        folder = root.parent if root.is_file() else root
        self._holders.append(folder)
        here = len(self._holders) - 1
        for file in files:
            if zipfile_like(file.name) or tar_like(file.name):
                self._add_archive(file)
            elif file.is_file():
                self._insert([Found(file.relative_to(folder).as_posix(), here, 0, file.stat().st_size)])

    def _add_archive(self, file: Path) -> None:
        kind = next((kind for kind in COMPRESSED_TARS if file.name.endswith(kind)), None)
        try:
            if kind:
                plain = self._scratch / f"{len(self._holders)}.tar"
                with COMPRESSED_TARS[kind](file) as packed, plain.open("wb") as unpacked:  # type: ignore[operator]
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
                self._holders.append(plain)
            else:
                self._holders.append(file)
            members = _zip_members if zipfile_like(file.name) else _tar_members
            self._insert(members(self._holders[-1], len(self._holders) - 1))
        except (*DAMAGE, OSError) as error:
            raise BadInput(f"the archive {file.name} cannot be read: {error}; fetch it again") from error

    def _insert(self, found: Iterator[Found] | Sequence[Found]) -> None:
        self._index.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?)",
            ((PurePosixPath(one.name).name, one.name, one.holder, one.offset, one.size) for one in found),
        )


def zipfile_like(name: str) -> bool:
    return name.endswith(".zip")


def tar_like(name: str) -> bool:
    return name.endswith((".tar", *COMPRESSED_TARS))


def open_tree(store: ArtifactStore, uris: Sequence[str], scratch: Path) -> Tree:
    """The tree of what stands at the URIs: folders or single files, local, on S3 or on a hub.

    What is not on this disk is downloaded first, into the cache.
    """
    return Tree([_local(store, uri) for uri in uris], scratch)


def _local(store: ArtifactStore, uri: str) -> Path:
    if uri.startswith("s3://") and PurePosixPath(uri).suffix:
        return store.download_file(uri)
    if "://" not in uri and Path(uri).is_file():
        return Path(uri)
    uri, _, revision = uri.partition("@") if uri.startswith("hf://") else (uri, "", "")
    return store.download(Source(uri=uri, revision=revision or None))


def _zip_members(file: Path, holder: int) -> Iterator[Found]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield Found(member.filename, holder, 0, member.file_size)


def _tar_members(file: Path, holder: int) -> Iterator[Found]:
    with tarfile.open(file, "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
            if member.isreg():
                yield Found(str(PurePosixPath(member.name)), holder, member.offset_data, member.size)


class _Slice(io.RawIOBase):
    """The bytes of a file from `offset` on, `size` of them."""

    def __init__(self, file: Path, offset: int, size: int) -> None:
        self._file = file.open("rb", buffering=0)
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._at)
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
