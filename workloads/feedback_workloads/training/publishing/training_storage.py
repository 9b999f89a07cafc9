"""What a training run keeps in the artifact store, besides its result, so that little is lost when it is killed.

Below the stage's folder:

    checkpoint-000120/    an artifact: a complete model, or an adapter; usable alone as the source of a model
    state/000130-<run>/   all that training needs to go on after step 130, that of a checkpoint or the one that it was
                          ended in; an iteration keeps its newest alone
    references/<key>/     how the sampler's log-probabilities compared, and recomputed ones where they were needed

Each has a manifest, written last, so that a kill at any moment leaves the newest complete state to go on from. The
state of the last step has no more than the log: it says that nothing is left to train, and costs nothing to keep.

Several iterations may do the same work one after another (see lease.py). `run` names the process that had the lease and
the iteration that it worked for, so that everyone goes on from what is there, and removes nothing but what its own
iteration has left: a checkpoint that is there stays, whoever made it, and so does the state of another iteration.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from feedback_workloads.contract import (
    MANIFEST_NAME,
    Artifact,
    FileEntry,
    Manifest,
    Temporary,
    TrainingConfig,
    canonical_json,
    shard_uri,
)
from feedback_workloads.process.versions import versions
from feedback_workloads.storage import lease
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import Absent, join
from feedback_workloads.training.references import References

ENTRIES: TypeAdapter[tuple[FileEntry, ...]] = TypeAdapter(tuple[FileEntry, ...])
NODE_TIMEOUT_SECONDS = 1800.0
NODE_POLL_SECONDS = 0.5


@dataclass(frozen=True, order=True)
class State:
    """The training state after `step` steps that `run` has stored (see `lease.Record.run`)."""

    step: int
    run: str

    @classmethod
    def named(cls, name: str) -> State:
        step, _, run = name.partition("-")
        return cls(int(step), run)

    @property
    def name(self) -> str:
        return f"{self.step:06d}-{self.run}"

    @property
    def owner(self) -> str:
        """Which iteration's it is, as digest."""
        return self.run.partition("-")[0]


@dataclass(frozen=True)
class TrainingStorage:
    """The folders of one training run. `node` is the number of this machine; machine 0 writes the manifests."""

    store: ArtifactStore
    config: TrainingConfig
    node: int = 0

    @property
    def uri(self) -> str:
        return shard_uri(self.config, 0)

    # ── references ───────────────────────────────────────────────────────────────────────────────────────────────────

    def references(self, key: str) -> tuple[Path, Mapping[str, float]] | None:
        """What an earlier run found for the same weights and pairs: a folder for `References.load`, and its metrics."""
        found = self.store.find(self._references_uri(key))
        return (self.store.download(found[1]), found[0].metrics) if found else None

    def publish_references(self, key: str, folder: Path) -> None:
        uri = self._references_uri(key)
        metrics = dict(References.load(folder).metrics)
        self._publish(uri, self.store.upload_folder(folder, uri), {"references": key}, metrics)

    def _references_uri(self, key: str) -> str:
        return join(self.uri, f"references/{key[:16]}")

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────

    def checkpoints(self, steps: Sequence[int]) -> dict[str, Artifact]:
        """Those checkpoints of `steps` that are stored, by name and in order."""
        return {
            checkpoint_name(step): found[1]
            for step in steps
            if (found := self.store.find(self._checkpoint_uri(step))) is not None
        }

    def publish_checkpoint(self, step: int, folder: Path) -> None:
        """Store a checkpoint, unless an earlier run, which went on further than its last state, has done so."""
        uri = self._checkpoint_uri(step)
        if self.store.find(uri) is None:
            self._publish(uri, self.store.upload_folder(folder, uri), {"step": step})

    def _checkpoint_uri(self, step: int) -> str:
        return join(self.uri, checkpoint_name(step))

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def newest_state(self, steps: Sequence[int]) -> State | None:
        """The latest state that training can go on from: it and all checkpoints up to its step are complete.

        A state that was saved by another number of processes, or under another ZeRO stage, does not fit.
        """
        stored = self.checkpoints(steps)
        for state in reversed(self._stored_states()):
            complete = all(checkpoint_name(step) in stored for step in steps if step <= state.step)
            found = self.store.find(self._state_uri(state)) if complete else None
            if found and found[0].config == self._content(self._shape(state.step)):
                return state
        return None

    def fetch_state(self, state: State, folder: Path) -> None:
        """Lay a state out in the new folder `folder`: the files of all machines side by side."""
        folder.mkdir()
        found = self.store.find(self._state_uri(state))
        if found is None:
            raise Temporary(f"the training state {self._state_uri(state)} has just gone; run the stage again")
        manifest, artifact = found
        local = self.store.download(artifact)
        for entry in manifest.files:
            target = folder.joinpath(*Path(entry.name).parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():  # some files are the same on all machines
                target.symlink_to((local / entry.name).absolute())

    def publish_state(self, step: int, folder: Path) -> None:
        """Store this machine's part of a state; machine 0 waits for the others, publishes, and drops its older ones."""
        state = State(step, self._run())
        uri = self._state_uri(state)
        entries = self.store.upload_folder(folder, uri, f"node-{self.node:03d}/")
        if self.node > 0:
            self.store.put(ENTRIES.dump_json(entries), uri, _entries_name(self.node))
            return
        for node in range(1, self.config.nodes):
            entries += self._entries_of(node, uri)
        self._publish(uri, entries, self._shape(step))
        for stored in self._stored_states():
            if stored != state and stored.owner == state.owner:
                self._delete(self._state_uri(stored))

    def _run(self) -> str:
        """The name of this run, from the lease that its first machine has."""
        record = lease.look(self.store.objects(self.uri), self.uri)
        if record is None or record.owner != lease.owner_of_this_process():
            raise Temporary(f"another iteration has taken over the work on {self.uri}; run the stage again")
        return record.run

    def _state_uri(self, state: State) -> str:
        return join(self.uri, f"state/{state.name}")

    def _stored_states(self) -> list[State]:
        """The states of which anything is stored, complete or not, in the order of their steps."""
        uri = join(self.uri, "state")
        return sorted({State.named(listed.name.split("/")[0]) for listed in self.store.objects(uri).list(uri)})

    def _entries_of(self, node: int, uri: str) -> tuple[FileEntry, ...]:
        """What machine `node` says that it stored; waits until it does."""
        name, deadline = join(uri, _entries_name(node)), time.monotonic() + NODE_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                return ENTRIES.validate_json(self.store.objects(uri).read(name))
            except Absent:
                time.sleep(NODE_POLL_SECONDS)
        raise Temporary(f"machine {node} did not store its part of the training state {uri}; run the stage again")

    def _shape(self, step: int) -> dict[str, Any]:
        """What a state belongs to: DeepSpeed's files fit the same number of processes and the same stage alone."""
        world = self.config.nodes * self.config.processes_per_node
        return {"step": step, "zero_stage": self.config.zero_stage, "processes": world if self.config.zero_stage else 0}

    # ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _content(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.config.content(), **more}

    def _publish(
        self,
        uri: str,
        files: tuple[FileEntry, ...],
        more: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write the manifest of a folder whose configuration is the stage's and `more`."""
        content = self._content(more)
        manifest = Manifest(
            stage=self.config.stage,
            config=content,
            config_hash=hashlib.sha256(canonical_json(content)).hexdigest(),
            files=files,
            counts={"rows": 0, "rejected": 0, "step": more.get("step", 0)},
            metrics=dict(metrics or {}),
            versions=versions(),
        )
        self.store.publish(uri, manifest)

    def _delete(self, uri: str) -> None:
        """Remove a folder, its manifest first, so that it is never taken for complete."""
        objects = self.store.objects(uri)
        objects.delete(join(uri, MANIFEST_NAME))
        for listed in list(objects.list(uri)):
            objects.delete(join(uri, listed.name))


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:06d}"


def _entries_name(node: int) -> str:
    return f"entries-{node:03d}.json"
