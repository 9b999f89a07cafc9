"""`feedback doctor` on a real API server: all green where all is well, and each thing that is wrong told by its name.

Its pods run the workloads' own program, with what their Secrets say, against a real S3.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.storage.artifacts import ArtifactStore
from tests.cluster.api import (
    DEPLOYMENTS,
    JOBS,
    LEASES,
    LIMIT_RANGES,
    NODES,
    QUOTAS,
    SECRETS,
    Kind,
    Object,
)
from tests.cluster.control_plane import node
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import SERVING, PlayedPod, ready
from tests.cluster.terminal import Terminal
from tests.cluster.world import World, condition_of, iteration

CLAIMS = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
CLASSES = Kind("StorageClass", "storage.k8s.io/v1", "storageclasses")
ROOT = Path(__file__).parents[3]
GPU = "nvidia.com/gpu"
S3 = {"envFrom": [{"name": "s3"}]}
SECTIONS = ("sampling", "splitting", "labeling", "pairing", "training", "evaluation")
TRIAL = "feedback_workloads.stages.trial"


async def tries(pod: PlayedPod) -> None:
    """The trial's own program as a process here, with its pod's Secrets; other pods serve."""
    [container] = pod._spec["containers"]
    if TRIAL not in container.get("command", []):
        return await ready()(pod)
    given: dict[str, str] = {}
    for one in container.get("envFrom", ()):
        data = (await pod._api.get(SECRETS, pod.namespace, one["secretRef"]["name"])).get("data", {})
        given |= {name: base64.b64decode(value).decode() for name, value in data.items()}
    log = Path(os.environ["FEEDBACK_TEST_TRIALS"]) / pod.name
    await pod.run()
    command = [sys.executable, *container["command"][1:], *container["args"]]
    environment = {**os.environ, **given, "FEEDBACK_TERMINATION_LOG": str(log), "FEEDBACK_CACHE": f"{log}-cache"}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
    code = await process.wait()
    return await pod.end(code, "Completed" if code == 0 else "Error", log.read_text() if log.exists() else "")


@pytest.fixture
async def gpu_node(world: World) -> AsyncIterator[str]:
    """A node with eight GPUs, for nobody else's pods."""
    made = node(f"gpus-{world.namespace}", **{GPU: "8"})
    made["metadata"]["labels"] |= {"pool": world.namespace, "nvidia.com/cuda.driver-version.major": "580"}
    made["spec"] = {"taints": [{"key": GPU, "value": "present", "effect": "NoSchedule"}]}
    await world.api.create(NODES, "", made)
    await world.api.wait(NODES, "", made["metadata"]["name"], condition_is_ready)
    yield world.namespace
    await world.api.delete(NODES, "", made["metadata"]["name"])


def condition_is_ready(item: Object) -> bool:
    return condition_of(item, "Ready").get("status") == "True"


@pytest.fixture
async def at_home(
    world: World, operator: OperatorProcess, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A namespace with all that an iteration needs: an operator, as its chart would have it, and S3 with its data."""
    monkeypatch.setenv("FEEDBACK_TEST_TRIALS", str(tmp_path))
    store: ArtifactStore = s3.store
    for name in ("policy", "labeler", "instructions", "benchmark"):
        store.put(b"{}", f"{s3.uri}/{name}", "config.json")
    environment: Mapping[str, str] = s3.environment
    given = {name: value for name, value in environment.items() if name.startswith("AWS_")}
    await world.api.create(SECRETS, world.namespace, {"metadata": {"name": "s3"}, "stringData": given})
    world.script.on(SERVING, then=tries)
    await world.api.create(DEPLOYMENTS, world.namespace, deployment(world.namespace))
    await world.api.wait(LEASES, world.namespace, "feedback-operator", lambda one: bool(one["spec"]["holderIdentity"]))
    await world.api.wait(DEPLOYMENTS, world.namespace, "operator", lambda one: one["status"].get("readyReplicas") == 1)
    return world


def deployment(namespace: str) -> Object:
    """What tells of the operator, whose process runs here: as the chart has it, as far as it is looked at."""
    labels = {"app.kubernetes.io/part-of": "feedback-operator", "app.kubernetes.io/component": "operator"}
    env = {
        "FEEDBACK_NAMESPACES": namespace,
        "FEEDBACK_GENERATE_IMAGE": "feedback-operator/generate:0.1.0",
        "FEEDBACK_TRAIN_IMAGE": "feedback-operator/train:0.1.0",
    }
    container = {
        "name": "operator",
        "image": "feedback-operator/operator:0.1.0",
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }
    spec = {"serviceAccountName": "feedback-operator", "containers": [container]}
    return {
        "metadata": {"name": "operator", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def needing(s3: Any, pool: str, **spec: Any) -> Object:
    """An iteration whose sampling takes a GPU of the pool, and all of whose data is there."""
    wanted: dict[str, Any] = {name: {"pod": S3} for name in SECTIONS} | {
        "model": {"uri": f"{s3.uri}/policy"},
        "instructions": {"uri": f"{s3.uri}/instructions"},
        "artifacts": {"uri": f"{s3.uri}/artifacts"},
    }
    wanted["labeling"] |= {"model": {"uri": f"{s3.uri}/labeler"}}
    wanted["evaluation"] |= {"benchmarks": [{"name": "b", "type": "shapes", "uri": f"{s3.uri}/benchmark"}]}
    wanted["sampling"] = {
        "resources": {"limits": {"memory": "4Gi", GPU: "1"}},
        "pod": {**S3, "nodeSelector": {"pool": pool}, "tolerations": [{"key": GPU, "operator": "Exists"}]},
    }
    return iteration("demo", **{**wanted, **spec})


async def found(terminal: Terminal, *words: str) -> tuple[int | None, dict[str, Object]]:
    said = await terminal.type("doctor", "-o", "json", *words)
    assert said.printed, said.complained
    [told] = json.loads(said.printed)
    return said.code, {check["check"]: check for check in told["checks"]}


async def test_all_is_well(at_home: World, gpu_node: str, terminal: Terminal, s3: Any) -> None:
    file = terminal.write(needing(s3, gpu_node))
    said = await terminal.type("doctor", "-f", file)
    print(said.printed)
    assert said.code == 0, said
    wrong = [line for line in said.printed.splitlines() if line.startswith(("failed", "warning", "not looked at"))]
    assert wrong == []
    for check in (
        "definition",
        "leader",
        "gpus",
        "drivers",
        "sampling: nodes",
        "sampling: pod",
        "sampling: cache",
        "Secret s3",
    ):
        assert f"{check}: " in said.printed
    page = (ROOT / "docs/first-run.md").read_text()
    shown = [line for line in page.splitlines() if line.startswith("ok  ") and "/dev/shm" not in line]
    assert len(shown) > 5
    for line in shown:
        here = line.replace("s3://example-feedback", s3.uri).replace("team-a", at_home.namespace)
        assert here in said.printed.splitlines()
    assert f"model {s3.uri}/labeler: works from a pod" in said.printed
    jobs = await at_home.api.list(JOBS, at_home.namespace)
    assert [job["metadata"]["name"] for job in jobs if "deletionTimestamp" not in job["metadata"]] == []
    assert list(s3.store.objects(s3.uri).list(f"{s3.uri}/artifacts")) == [], "nothing is left on S3"

    code, checks = await found(terminal, "--no-pods")  # without a manifest
    assert (code, [one for one in checks.values() if one["outcome"] == "failed"]) == (0, [])
    assert checks["operator"]["outcome"] == checks["your rights"]["outcome"] == "ok"
    assert checks["pods"]["outcome"] == "not looked at"


async def test_each_thing_that_is_wrong_is_told(at_home: World, gpu_node: str, terminal: Terminal, s3: Any) -> None:
    space, api = at_home.namespace, at_home.api
    await api.patch(
        NODES, "", f"gpus-{space}", {"metadata": {"labels": {"nvidia.com/cuda.driver-version.major": "535"}}}
    )
    await api.patch(SECRETS, space, "s3", {"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}})
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {f"requests.{GPU}": "4"}}}
    await api.create(QUOTAS, space, quota)
    await api.wait(QUOTAS, space, "few", lambda one: bool(one.get("status", {}).get("hard")))
    most = {"metadata": {"name": "most"}, "spec": {"limits": [{"type": "Container", "max": {"memory": "64Gi"}}]}}
    await api.create(LIMIT_RANGES, space, most)
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}
    await api.create(CLAIMS, space, {"metadata": {"name": "models"}, "spec": claim})
    manifest = needing(
        s3,
        gpu_node,
        sampling={
            "shards": 5,
            "resources": {"limits": {"memory": "4Gi", GPU: "1"}},
            "pod": {**S3, "nodeSelector": {"pool": gpu_node}, "cache": {"claimName": "models"}},
        },
        splitting={"pod": {**S3, "serviceAccountName": "nobody"}},
        pairing={"pod": {"envFrom": [{"name": "other"}], "cache": {"ephemeral": {"size": "1Gi"}}}},
        training={"resources": {"limits": {"memory": "65Gi"}}, "pod": {**S3, "nodeSelector": {"pool": "elsewhere"}}},
    )
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    manifest["spec"]["labeling"]["model"]["uri"] = f"{s3.uri}/none"
    code, checks = await found(terminal, "-f", terminal.write(manifest), "--no-pods")
    for check, outcome, words in (
        ("drivers", "failed", "older than 580"),
        ("sampling: nodes", "failed", f"tainted {GPU}:NoSchedule"),
        ("sampling: quota", "failed", "its pods take 5"),
        ("claim models", "warning", "is not ReadWriteMany"),
        ("ServiceAccount nobody", "failed", "is not in the namespace"),
        ("splitting: pod", "failed", 'serviceaccount "nobody" not found'),
        ("Secret other", "failed", "is not in the namespace"),
        ("pairing: claims", "failed", "there is none"),
        ("training: limits", "failed", "at most 64Gi"),
        ("training: pod", "failed", "maximum memory usage per Container is 64Gi"),
        ("training: nodes", "failed", "without the label pool=elsewhere"),
        ("queue", "failed", "the cluster has no Kueue"),
    ):
        assert checks[check]["outcome"] == outcome, checks[check]
        assert words in checks[check]["message"]
        assert checks[check]["remedy"]
    assert code == 1

    await api.delete(QUOTAS, space, "few")
    tried = needing(s3, gpu_node, labeling={"pod": {"image": "elsewhere/generate:1"}})
    tried["spec"]["labeling"]["model"] = {"uri": f"{s3.uri}/none"}
    at_home.script.on(SERVING, then=tries_unless_elsewhere)
    code, checks = await found(terminal, "-f", terminal.write(tried))
    told = {check: one for check, one in checks.items() if one["outcome"] == "failed"}
    refused = [one["message"] + one["remedy"] for check, one in told.items() if f": artifacts {s3.uri}" in check]
    assert refused
    assert all("AWS_SECRET_ACCESS_KEY" in one for one in refused), refused
    assert told["labeling: pod runs"]["message"].startswith("ImagePullBackOff: no such image")
    assert code == 1


async def tries_unless_elsewhere(pod: PlayedPod) -> None:
    if pod._spec["containers"][0]["image"].startswith("elsewhere/"):
        await pod.wait("ImagePullBackOff", "no such image")
        await asyncio.Event().wait()
    await tries(pod)


async def test_no_operator_and_no_rights(world: World, terminal: Terminal) -> None:
    code, checks = await found(terminal, "-f", terminal.write(iteration("demo")), "--no-pods")
    assert (code, checks["operator"]["outcome"]) == (1, "failed")
    assert checks["iteration"]["outcome"] == "ok"
    assert checks["sampling: pod"]["outcome"] == "not looked at"
    assert "its image is not known" in checks["sampling: pod"]["message"]
    assert checks["operator"]["message"].startswith(f"none serves the namespace {world.namespace}")
    assert checks["operator"]["remedy"]

    terminal.kubeconfig = world.control_plane.kubeconfig_for("operator", world.token, namespace=world.namespace)
    code, checks = await found(terminal)
    assert code == 1
    assert checks["your rights"]["outcome"] == "failed"
    assert "you may not create feedbackiterations" in checks["your rights"]["message"]
    for check in ("definition", "operator", "gpus", "storage classes", "quotas"):
        assert checks[check]["outcome"] == "not looked at", checks[check]
        assert "you may not" in checks[check]["message"]
