"""Files by URI, on S3 or on a disk, behind one small protocol. Knows nothing of manifests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from feedback_workloads.contract import BadInput

BLOCK_BYTES = 1 << 20


class Absent(Exception):
    """There is no object at this URI."""


@dataclass(frozen=True)
class Digest:
    """What a file is: SHA-256 (hex) and size of its content."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True)
class Listed:
    """A file below a folder: its path relative to the folder, size, and a tag that changes with its content."""

    name: str
    size: int
    tag: str


@dataclass(frozen=True)
class Version:
    """One version of an object: its content, and a tag that changes with it."""

    data: bytes
    tag: str


class Objects(Protocol):
    """What a storage backend does. Writes are atomic: an object is there in full, or not at all.

    Raises Absent where an object that is read is not there, BadInput and Temporary as `ArtifactStore` says, and OSError
    where the local disk fails.
    """

    def read(self, uri: str) -> bytes:
        """Return the object's content, in memory."""

    def write(self, uri: str, data: bytes) -> None:
        """Store `data`, replacing what is there."""

    def create(self, uri: str, data: bytes) -> bool:
        """Store `data` unless something is there already; return whether it was stored.

        Atomic between processes, on S3 only where the server knows `If-None-Match`.
        """

    def version(self, uri: str) -> Version:
        """Return the object's content, in memory, with the tag of this version of it."""

    def replace(self, uri: str, data: bytes, tag: str) -> bool:
        """Store `data` in the place of the version `tag`, if that is still there; return whether it was stored.

        Atomic between processes, on S3 only where the server knows `If-Match` for writes.
        """

    def heeds_conditions(self, uri: str) -> bool:
        """Whether `create` and `replace` are atomic here; an object is at `uri`."""

    def upload(self, file: Path, uri: str) -> Digest:
        """Store a local file, in bounded memory; return the digest of the bytes that were sent."""

    def download(self, uri: str, file: Path, size: int) -> Digest:
        """Write the object, of about `size` bytes, to `file`; bounded memory; return the digest of what came."""

    def list(self, uri: str) -> Iterator[Listed]:
        """Yield every file below the folder `uri`, ordered by name; nothing where there is no folder."""

    def delete(self, uri: str) -> None:
        """Remove the object; nothing happens where there is none."""


def join(uri: str, name: str) -> str:
    """Return the URI of the file `name` below the folder `uri`."""
    return f"{uri.rstrip('/')}/{name}"


def local_path(uri: str) -> Path:
    """Return the path that a `file://` URI or a plain path names; BadInput for any other scheme."""
    if "://" not in uri:
        return Path(uri)
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"}:
        raise BadInput(f"cannot use the URI {uri}; give s3://bucket/prefix, file:///folder or a local path")
    return Path(urllib.parse.unquote(parts.path))


class HashingReader:
    """A file to read from that hashes what is read. Cannot seek, so every byte is read once and in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self._size += len(data)
        return data

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest(), self._size)


def digest_of(file: Path) -> Digest:
    """Return the digest of a local file; raises Absent where there is none."""
    try:
        with file.open("rb") as stream:
            return Digest(hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell())
    except FileNotFoundError as error:
        raise Absent(str(file)) from error


class FileObjects:
    """Objects on a local disk, or on one that several machines mount."""

    def read(self, uri: str) -> bytes:
        try:
            return local_path(uri).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Absent(uri) from error

    def write(self, uri: str, data: bytes) -> None:
        with _temporary(local_path(uri)) as (part, file):
            part.write_bytes(data)
            part.replace(file)

    def create(self, uri: str, data: bytes) -> bool:
        with _temporary(local_path(uri)) as (part, file):
            part.write_bytes(data)
            try:
                file.hardlink_to(part)
            except FileExistsError:
                return False
            return True

    def version(self, uri: str) -> Version:
        data = self.read(uri)
        return Version(data, Digest.of(data).sha256)

    def replace(self, uri: str, data: bytes, tag: str) -> bool:
        file = local_path(uri)
        if not file.exists():
            return False
        with file.with_name(f".part-{file.name}.lock").open("w") as lock, suppress(Absent):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.version(uri).tag == tag:
                self.write(uri, data)
                return True
        return False

    def heeds_conditions(self, uri: str) -> bool:
        return True

    def upload(self, file: Path, uri: str) -> Digest:
        destination = local_path(uri)
        if destination.exists() and destination.samefile(file):
            return digest_of(file)
        with _temporary(destination) as (part, _):
            digest = _copy(file, part)
            part.replace(destination)
        return digest

    def download(self, uri: str, file: Path, size: int) -> Digest:
        try:
            return _copy(local_path(uri), file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Absent(uri) from error

    def list(self, uri: str) -> Iterator[Listed]:
        folder = local_path(uri)
        for file in sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".part-")):
            status = file.stat()
            yield Listed(file.relative_to(folder).as_posix(), status.st_size, str(status.st_mtime_ns))

    def delete(self, uri: str) -> None:
        local_path(uri).unlink(missing_ok=True)


@dataclass(frozen=True)
class Guarded:
    """Objects that are changed only while `check` raises nothing: see `Objects` for what each method does."""

    objects: Objects
    check: Callable[[], None]

    def read(self, uri: str) -> bytes:
        return self.objects.read(uri)

    def write(self, uri: str, data: bytes) -> None:
        self.check()
        self.objects.write(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        self.check()
        return self.objects.create(uri, data)

    def version(self, uri: str) -> Version:
        return self.objects.version(uri)

    def replace(self, uri: str, data: bytes, tag: str) -> bool:
        self.check()
        return self.objects.replace(uri, data, tag)

    def heeds_conditions(self, uri: str) -> bool:
        self.check()
        return self.objects.heeds_conditions(uri)

    def upload(self, file: Path, uri: str) -> Digest:
        self.check()
        return self.objects.upload(file, uri)

    def download(self, uri: str, file: Path, size: int) -> Digest:
        return self.objects.download(uri, file, size)

    def list(self, uri: str) -> Iterator[Listed]:
        return self.objects.list(uri)

    def delete(self, uri: str) -> None:
        self.check()
        self.objects.delete(uri)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Give an OSError that names no file the name of `file`: a failed write does not say where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


@contextmanager
def _temporary(file: Path) -> Iterator[tuple[Path, Path]]:
    """Give a name beside `file` to write to before it is renamed, and `file`; leave nothing of the former behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".part-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with naming(file):
            yield part, file
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _copy(source: Path, destination: Path) -> Digest:
    with source.open("rb") as given, destination.open("wb") as taken:
        reader = HashingReader(given)
        while block := reader.read(BLOCK_BYTES):
            taken.write(block)
    return reader.digest()
