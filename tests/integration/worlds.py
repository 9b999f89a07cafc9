"""A shapes world that is built in a minute: few pictures, a policy that just speaks, a labeler that mostly guesses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feedback_workloads.contract import FileEntry, Manifest
from feedback_workloads.shapes.build import write_rows
from feedback_workloads.shapes.world import rows
from feedback_workloads.storage.artifacts import ArtifactStore


@dataclass(frozen=True)
class SmallWorld:
    """Where its artifacts are."""

    uri: str

    def manifest(self, artifacts: str, **spec: Any) -> dict[str, Any]:
        """An iteration on this world that leaves its artifacts below `artifacts`."""
        return {
            "apiVersion": "feedback.rlaif.dev/v1alpha1",
            "kind": "FeedbackIteration",
            "metadata": {"name": "small"},
            "spec": {
                "model": {"uri": f"{self.uri}/policy"},
                "instructions": {"uri": f"{self.uri}/instructions"},
                "artifacts": {"uri": artifacts},
                "sampling": {"candidates": 4, "maxNewTokens": 64, "maxModelLen": 256},
                "labeling": {"model": {"uri": f"{self.uri}/labeler"}, "maxModelLen": 256},
                "pairing": {"truth": "shapes"},
                "training": {
                    "learningRate": "0.00001",
                    "epochs": 2,
                    "globalBatchSize": 16,
                    "perDeviceBatchSize": 16,
                    "checkpointsPerEpoch": 2,
                    "maxLength": 256,
                },
                "evaluation": {
                    "benchmarks": [{"name": "shapes", "type": "shapes", "uri": f"{self.uri}/benchmark"}],
                    "bestOf": 2,
                },
                **spec,
            },
        }


def small_world(store: ArtifactStore, uri: str, folder: Path) -> SmallWorld:
    """Build and publish the world below `uri`, in less than a minute."""
    from feedback_workloads.shapes.courses import COMPARING, SEEING
    from feedback_workloads.shapes.learning import learn
    from feedback_workloads.shapes.models import new_model, save

    model = new_model(seed=0)
    for name, course in (("policy", replace(SEEING, steps=60)), ("labeler", replace(COMPARING, steps=80))):
        learn(model, course, seed=0, step_done=lambda: None)
        save(model, folder / name)
        publish(store, f"{uri}/{name}", store.upload_folder(folder / name, f"{uri}/{name}"))
    questions = {
        "instructions": rows(0, "instructions", 160),
        "benchmark": [*rows(0, "selection", 24), *rows(0, "report", 24)],
    }
    for name, chosen in questions.items():
        publish(store, f"{uri}/{name}", (store.put(write_rows(chosen), f"{uri}/{name}", "data.parquet"),))
    return SmallWorld(uri)


def publish(store: ArtifactStore, uri: str, files: tuple[FileEntry, ...]) -> None:
    counts = {"rows": 0, "rejected": 0}
    store.publish(uri, Manifest(stage="shapes", config={}, config_hash="", files=files, counts=counts))
