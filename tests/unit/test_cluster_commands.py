"""What the cluster commands say: errors with remedies, lists, descriptions, and what to type."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli.cluster_errors import (
    ClusterError,
    ClusterRequest,
    ClusterUnavailable,
    Forbidden,
    ManifestRejected,
    NotFound,
    Owned,
    explain,
    with_near_names,
)
from feedback_operator.cli.describe import advice, age, columns, description, listing, settled
from feedback_operator.cli.manifests import load
from feedback_operator.cli.remote import StagePod, stage_pod, youngest
from feedback_operator.cli.submit import home
from tests.unit.worlds import manifest

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LIST = ClusterRequest("list", "feedbackiterations", "team-a", "", "work")
GET = ClusterRequest("get", "feedbackiterations", "team-a", "shapes", "work")
LOG = ClusterRequest("get", "pods/log", "team-a", "shapes-sampling-0-x", "work")


@pytest.mark.parametrize(
    ("status", "body", "asked", "kind", "said"),
    [
        pytest.param(401, {}, LIST, ClusterError, "credentials of context work; log in", id="credentials"),
        pytest.param(
            403, {}, LIST, Forbidden, "may not list feedbackiterations in namespace team-a; ask", id="forbidden"
        ),
        pytest.param(403, {}, LOG, Forbidden, "may not get pods/log in namespace team-a", id="forbidden logs"),
        pytest.param(
            404,
            "404 page not found",
            GET,
            ClusterError,
            "does not know feedbackiterations.feedback.rlaif.dev; install the operator",
            id="no such kind",
        ),
        pytest.param(
            404,
            {"details": {"name": "shapes"}},
            GET,
            NotFound,
            "no iteration shapes in namespace team-a",
            id="no such iteration",
        ),
        pytest.param(
            404, {"details": {"name": "x"}}, LOG, NotFound, "no pods/log shapes-sampling-0-x", id="no such pod"
        ),
        pytest.param(
            422,
            {"details": {"causes": [{"field": "spec.seed", "message": "too big"}, {"field": "spec", "message": "no"}]}},
            GET,
            ManifestRejected,
            "shapes: spec.seed: too big\nshapes: spec: no",
            id="invalid",
        ),
        pytest.param(
            400, {"message": 'unknown field "spec.x"'}, GET, ManifestRejected, 'unknown field "spec.x"', id="unknown"
        ),
        pytest.param(500, {"message": "etcd"}, GET, ClusterUnavailable, "answered 500: etcd; try again", id="broken"),
        pytest.param(
            429, {"message": "slow down"}, GET, ClusterUnavailable, "answered 429: slow down; try again", id="busy"
        ),
        pytest.param(502, "<html>", GET, ClusterUnavailable, "answered 502: without a reason", id="a proxy's page"),
    ],
)
def test_an_answer_that_is_none(status: int, body: Any, asked: ClusterRequest, kind: type, said: str) -> None:
    error = explain(status, body.encode() if isinstance(body, str) else json.dumps(body).encode(), asked)
    assert type(error) is kind
    assert said in str(error)


def test_fields_of_others_are_told_with_their_owners() -> None:
    causes = [{"field": ".spec.seed", "message": 'conflict with "argocd" using feedback.rlaif.dev/v1alpha1'}]
    body = json.dumps({"message": "Apply failed with 1 conflict", "details": {"causes": causes}})
    error = explain(409, body.encode(), GET)
    assert isinstance(error, Owned)
    assert error.owners == {"argocd"}
    assert "shapes was not changed: Apply failed with 1 conflict; change the field where" in str(error)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["shapes-1", "other"], "did you mean shapes-1?"),
        (["quite-different"], "feedback list shows what there is"),
        ([], "there are none at all"),
    ],
)
def test_near_names(names: list[str], said: str) -> None:
    assert said in str(with_near_names(NotFound("there is no iteration shapes"), "shapes", names))


def stage(name: str, state: str = "Waiting", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, **more}


def conditions(**status: str) -> list[dict[str, Any]]:
    """`Ready="False StageRunning at stage training"`: status, reason and message of each."""
    return [
        {"type": kind, **dict(zip(("status", "reason", "message"), text.split(" ", 2), strict=False))}
        for kind, text in status.items()
    ]


def seen(spec: dict[str, Any] | None = None, generation: int = 1, **status: Any) -> FeedbackIteration:
    """An iteration that was created two hours ago, with this status."""
    made = manifest(**(spec or {}))
    created = (NOW - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made["metadata"] = {"name": "it", "namespace": "team-a", "creationTimestamp": created, "generation": generation}
    return FeedbackIteration.model_validate({**made, "status": {"observedGeneration": 1, **status}})


DONE = stage(
    "sampling",
    "Done",
    shards=[{"shard": 0, "uri": "s3://b/a", "sha256": "0" * 64, "counts": {"rows": 120, "rejected": 2}}],
)
RUNNING = seen(
    stage="training",
    progress="312/2668",
    stages=[DONE, stage("training", "Running", job="it-training-0", done=312, total=2668, message="training")],
    conditions=conditions(Ready="False StageRunning at stage training", Reconciling="True StageRunning"),
)
FAILED = seen(
    stages=[DONE, stage("training", "Failed", job="it-training-0", reason="OutOfMemory", message="raise the limit")],
    conditions=conditions(Ready="False OutOfMemory raise the limit", Stalled="True OutOfMemory raise the limit"),
)
PENDING = seen(
    stages=[stage("sampling", "Running", job="it-sampling-0", reason="ImagePullBackOff", message="no such image")],
    conditions=conditions(Ready="False ImagePullBackOff", Reconciling="True ImagePullBackOff"),
)
FINISHED = seen(
    spec={"serving": {"endpoint": "e"}},
    stages=[DONE],
    conditions=conditions(
        Ready="True Complete", Stalled="False Complete", Promoted="True GatePassed", Serving="True Serving"
    ),
    hallucination={"baseline": "0.41", "aligned": "0.22"},
    serving={"endpoint": "e", "revision": "e798c68f53", "replicas": 2, "readyReplicas": 2},
)
GATE_FAILED = seen(
    stages=[DONE], conditions=conditions(Ready="True Complete", Promoted="False GateFailed recall is 0.5, below 0.9")
)
ROLLED_BACK = seen(
    spec={"serving": {"endpoint": "e"}},
    stages=[DONE],
    conditions=conditions(
        Ready="False RolledBack",
        Stalled="True RolledBack",
        Promoted="True GatePassed",
        Serving="False RolledBack not ready",
    ),
)
CHILD = seen(
    spec={"model": {"from": {"iteration": "parent"}}},
    stages=[stage("sampling", message="waits for parent")],
    conditions=conditions(Ready="False WaitingForParent", Reconciling="True WaitingForParent"),
)
SUSPENDED = seen(spec={"suspend": True}, stages=[DONE, stage("splitting", "Suspended", job="it-splitting-0")])
UNSEEN = seen(generation=2)


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        pytest.param(RUNNING, [], id="at work: wait"),
        pytest.param(FINISHED, [], id="finished: be content"),
        pytest.param(
            FAILED,
            [
                "Stage training failed: raise the limit",
                "feedback logs training -i it -n team-a",
                "kubectl edit fbi it -n team-a",
                "feedback suspend it -n team-a && feedback resume it -n team-a",
            ],
            id="failed",
        ),
        pytest.param(
            PENDING,
            ["no such image", "kubectl describe pods -l batch.kubernetes.io/job-name=it-sampling-0 -n team-a"],
            id="pods do not start",
        ),
        pytest.param(GATE_FAILED, ["recall is 0.5, below 0.9", "feedback report it -n team-a"], id="gate failed"),
        pytest.param(
            ROLLED_BACK,
            ["not ready", "kubectl logs -l feedback.rlaif.dev/endpoint=e --tail=50 -n team-a"],
            id="rolled back",
        ),
        pytest.param(CHILD, ["feedback status parent -n team-a"], id="waits for its parent"),
        pytest.param(SUSPENDED, ["feedback resume it -n team-a"], id="suspended"),
        pytest.param(UNSEEN, ["kubectl get pods --all-namespaces"], id="no operator"),
    ],
)
def test_advice(iteration: FeedbackIteration, expected: list[str]) -> None:
    text = advice(iteration, " -n team-a")
    assert bool(text) == bool(expected)
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (RUNNING, False), (PENDING, False), (CHILD, False), (UNSEEN, False), (FAILED, True), (FINISHED, True),
        (GATE_FAILED, True), (ROLLED_BACK, True), (SUSPENDED, True),
    ],
    ids=["running", "pending", "child", "unseen", "failed", "finished", "gate failed", "rolled back", "suspended"],
)  # fmt: skip
def test_settled(iteration: FeedbackIteration, expected: bool) -> None:
    assert settled(iteration) is expected


def test_a_list_says_where_it_is_whether_it_helped_and_whether_it_serves() -> None:
    assert listing([RUNNING, FINISHED], NOW, everywhere=True).splitlines() == [
        "NAMESPACE  NAME  STAGE     PROGRESS  READY  REASON        BEFORE  AFTER  PROMOTED  SERVING  AGE",
        "team-a     it    training  312/2668  False  StageRunning                                    2h",
        "team-a     it                        True   Complete      0.41    0.22   True      True     2h",
    ]


def test_a_description_shows_stages_and_conditions() -> None:
    assert description(RUNNING, NOW).splitlines() == [
        "it in team-a, 2h old, generation 1",
        "",
        "STAGE     STATE    DONE                  TIME",
        "sampling  done     120 rows, 2 rejected",
        "training  running  312/2668                    training",
        "",
        "CONDITION    STATUS  REASON        MESSAGE",
        "Ready        False   StageRunning  at stage training",
        "Reconciling  True    StageRunning",
    ]


def test_a_description_of_a_finished_one_says_what_came_of_it() -> None:
    text = description(FINISHED, NOW)
    assert "Answers with a hallucination: 0.41 before, 0.22 after." in text
    assert "Endpoint e: 2 of 2 pods ready." in text


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (3599, "59m"),
        (3600, "1h"),
        (86399, "23h"),
        (86400, "1d"),
        (864000, "10d"),
    ],
)
def test_age(passed: int, expected: str) -> None:
    assert age(RUNNING, NOW - timedelta(hours=2) + timedelta(seconds=passed)) == expected


def test_columns_are_aligned_without_trailing_spaces() -> None:
    assert columns([("A", "B"), ("long", ""), ("x", "y")]) == "A     B\nlong\nx     y"


def test_the_youngest_pod_of_each_shard() -> None:
    pods = [StagePod(f"p{n}", n % 2, f"2026-01-01T00:00:0{n}Z", begun=True, waits_for="") for n in (3, 0, 1, 2)]
    assert [pod.name for pod in youngest(pods)] == ["p2", "p3"]


def test_a_sidecar_is_not_taken_for_the_stage() -> None:
    """Neither is its image the one that cannot be pulled, nor its log the one that there is."""
    sidecar = {"name": "istio-proxy", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    meta = {"name": "p", "creationTimestamp": "", "labels": {}}

    def seen(state: dict[str, Any]) -> StagePod:
        stage = {"name": "stage", "state": state}
        return stage_pod({"metadata": meta, "status": {"containerStatuses": [sidecar, stage]}})

    assert seen({"running": {}}).begun
    waits = seen({"waiting": {"reason": "CreateContainerConfigError"}})
    assert (waits.begun, waits.waits_for) == (False, "CreateContainerConfigError")


@pytest.mark.parametrize(
    ("manifest_says", "command_says", "expected"),
    [(None, None, "context"), (None, "given", "given"), ("own", None, "own"), ("given", "given", "given")],
)
def test_the_namespace(manifest_says: str | None, command_says: str | None, expected: str) -> None:
    assert home(FakeSpace(command_says or "context"), one(manifest_says), command_says).namespace == expected


def test_two_namespaces_are_one_too_many() -> None:
    with pytest.raises(ClusterError, match="says namespace own, the command says given; take one"):
        home(FakeSpace("given"), one("own"), "given")


def one(namespace: str | None) -> FeedbackIteration:
    made = manifest()
    made["metadata"] = {"name": "it", **({"namespace": namespace} if namespace else {})}
    return FeedbackIteration.model_validate(made)


class FakeSpace:
    """Just the namespace of a Remote."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def within(self, namespace: str) -> FakeSpace:
        return FakeSpace(namespace)


def test_a_parent_may_be_on_the_cluster_already(tmp_path: Path) -> None:
    made = manifest(model={"from": {"iteration": "parent"}})
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(made))
    assert load(tmp_path, elsewhere=True).problems == ()
    assert load(tmp_path).problems != ()
