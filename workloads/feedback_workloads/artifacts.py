"""Where artifacts live: folders of verified files on S3 or on a disk, whole once their manifest.json is there.

Credentials, endpoint and region come from the standard AWS_* environment. What is downloaded is kept, by content, in the
folder that FEEDBACK_CACHE names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback_workloads.contract import Artifact, FileEntry, Manifest, Source

if TYPE_CHECKING:
    import pyarrow as pa

    from feedback_workloads.parts import Parts

CACHE_VARIABLE = "FEEDBACK_CACHE"

Row = Mapping[str, Any]


class ArtifactStore:
    """Reads and writes artifacts. URIs are `s3://bucket/prefix`, `file:///folder` or a local path.

    All methods raise BadInput for what a retry cannot mend (nothing there, no access, wrong digest) and Temporary for
    what it may (server out of reach after several attempts); both name the URI and the remedy. Safe to use from threads.
    """

    @classmethod
    def from_environment(cls) -> ArtifactStore:
        """Make a store from AWS_* and FEEDBACK_CACHE; connects to nothing yet."""
        raise NotImplementedError

    # ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, uri: str) -> tuple[Manifest, Artifact] | None:
        """Return the manifest below the folder `uri` and the reference to it, or None where there is none yet."""
        raise NotImplementedError

    def manifest(self, ref: Artifact | Source) -> Manifest:
        """Read the manifest of `ref`; BadInput where there is none or its digest is not the one asked for."""
        raise NotImplementedError

    def publish(self, uri: str, manifest: Manifest) -> Artifact:
        """Write the manifest, which makes the artifact whole: call it after every file is stored.

        The same manifest may already be there; a different one raises BadInput and stays.
        """
        raise NotImplementedError

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, data: bytes, uri: str, name: str, rows: int | None = None) -> FileEntry:
        """Store `data` as the file `name` below the folder `uri`."""
        raise NotImplementedError

    def upload(self, file: Path, uri: str, name: str, rows: int | None = None) -> FileEntry:
        """Store a local file as `name` below the folder `uri`; memory stays bounded whatever its size."""
        raise NotImplementedError

    def upload_folder(self, folder: Path, uri: str, prefix: str = "") -> tuple[FileEntry, ...]:
        """Store every file below `folder`, as `prefix` + its relative path, several at a time; ordered by name."""
        raise NotImplementedError

    def download(self, ref: Artifact | Source) -> Path:
        """Return a local folder with every file of `ref`, each verified against the manifest's digest.

        A local folder is returned as it is (verified where a digest was asked for); `hf://owner/name` is fetched at its
        revision; an S3 folder without a manifest is taken as it is listed, unless a digest was asked for. The folder is
        shared by all callers: read it, never write to it.
        """
        raise NotImplementedError

    # ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def rows(
        self, refs: Sequence[Artifact], schema: pa.Schema, columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Stream the rows of the artifacts' part files, in order; at most a few parts are in memory.

        Each file is verified before a row of it is used. Raises BadInput naming file and column where a file is damaged
        or is not of `schema`. `columns` limits what is read.
        """
        raise NotImplementedError

    def read_table(self, refs: Sequence[Artifact], schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of the artifacts' part files as one table; see `rows`."""
        raise NotImplementedError

    def append(self, uri: str, schema: pa.Schema) -> AbstractContextManager[Parts]:
        """Open the folder `uri` for writing parts of `schema`, going on after those that an earlier process finished."""
        raise NotImplementedError
