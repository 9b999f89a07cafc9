"""Iterations on a real node: from `kubectl apply` to an endpoint that answers, rolls over, and is not lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback_workloads.contract import Artifact
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import join
from tests.cluster.api import ITERATIONS, Object
from tests.cluster.world import READY, STALLED, condition, condition_of, stage_is, stage_of
from tests.e2e.outcomes import artifacts_of
from tests.node.asking import Asking, ask, client_of
from tests.node.conftest import Release
from tests.node.team import ENDPOINT, Team, on_cluster

ROOT_UID = "0"
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def second(team: Team, manifest: Object, first: Object, release: Release) -> tuple[Object, Asking]:
    """The next iteration, done and serving too, and what clients saw meanwhile; the operator is upgraded under it."""
    [old] = team.pods(**{"feedback.rlaif.dev/endpoint": ENDPOINT})
    with Asking(team.address(ENDPOINT), ENDPOINT) as asking:
        team.apply(on_cluster(manifest, "second", model={"uri": None, "from": {"iteration": "first"}}))
        team.until("second", stage_is("sampling", "Running"))
        release.upgrade()
        finished = team.until("second", READY)
        team.kubectl("wait", "--for=delete", f"pod/{old['metadata']['name']}", "--timeout=120s")
    return finished, asking


def fingerprint(iteration: Object) -> str:
    """What an answer of this iteration's policy says of itself."""
    return f"fp_{iteration['status']['promoted']['sha256'][:12]}"


def test_from_a_manifest_to_an_answer(team: Team, first: Object, store: ArtifactStore) -> None:
    assert condition_of(first, "Serving")["status"] == "True"
    for stage in first["status"]["stages"]:
        assert stage["state"] == "Done"
        for artifact in artifacts_of(first, stage["name"]):
            store.manifest(artifact)  # checks the digest that the pod's termination message brought
    with client_of(team.address(ENDPOINT)) as client:
        assert [model.id for model in client.models.list()] == [ENDPOINT]
        answer = ask(client, ENDPOINT, max_tokens=16)
    assert answer.choices[0].message.content
    assert answer.system_fingerprint == fingerprint(first)


def test_the_command_line_tells_the_same(team: Team, first: Object) -> None:
    said = team.kubectl("feedback", "status", "first")
    print(said)
    for stage in first["status"]["stages"]:
        assert stage["name"] in said
    assert ENDPOINT in said


def test_the_doctor_finds_all_well(team: Team, manifest: Object, first: Object, tmp_path: Path) -> None:
    """Its pods are pulled, admitted and run here with the images, the Secret and the S3 server of the stages."""
    file = tmp_path / "first.yaml"
    file.write_text(json.dumps(manifest))  # JSON is YAML
    [told] = json.loads(team.kubectl("feedback", "doctor", "-f", str(file), "-o", "json"))
    assert [check for check in told["checks"] if check["outcome"] != "ok"] == []
    assert any(": artifacts s3://" in check["check"] for check in told["checks"])


def test_pods_are_as_restricted_as_they_say(team: Team, first: Object) -> None:
    """The namespace refuses others; here is what the kernel has of one that runs."""
    [pod] = team.pods(**{"feedback.rlaif.dev/endpoint": ENDPOINT})
    name = pod["metadata"]["name"]
    status = team.kubectl("exec", name, "--", "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert ROOT_UID not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert " / overlay ro," in team.kubectl("exec", name, "--", "cat", "/proc/mounts")
    assert "no" in team.kubectl("exec", name, "--", "sh", "-c", "test -e /var/run/secrets/kubernetes.io || echo no")


def test_the_next_iteration_takes_the_endpoint_over_without_a_failed_request(
    first: Object, second: tuple[Object, Asking]
) -> None:
    finished, asking = second
    assert asking.failures == []
    before, after = fingerprint(first), fingerprint(finished)
    assert before != after
    assert set(asking.revisions) == {before, after}
    assert asking.revisions[0] == before
    assert asking.revisions[-1] == after
    print(f"{len(asking.revisions)} answers, {asking.revisions.count(after)} of them by the new policy, none failed")


def test_a_gate_that_fails_rolls_nothing(team: Team, manifest: Object, second: tuple[Object, Asking]) -> None:
    before = team.get("deployment", ENDPOINT)
    impossible = {"gate": [{"metric": "responseHallucination", "max": "0"}]}
    team.apply(on_cluster(manifest, "strict", evaluation=impossible))
    finished = team.until("strict", READY)
    assert condition_of(finished, "Promoted")["reason"] == "GateFailed"
    assert all(shard["reused"] for stage in finished["status"]["stages"] for shard in stage["shards"]), "all was there"
    after = team.get("deployment", ENDPOINT)
    assert before["metadata"]["generation"] == after["metadata"]["generation"]


@pytest.mark.long
def test_a_model_that_cannot_be_served_is_rolled_back(
    team: Team, manifest: Object, store: ArtifactStore, second: tuple[Object, Asking]
) -> None:
    finished, _ = second
    promoted = Artifact(uri=finished["status"]["promoted"]["uri"], sha256=finished["status"]["promoted"]["sha256"])
    [weights] = [file.name for file in store.manifest(promoted).files if file.name.endswith(".safetensors")]
    store.objects(promoted.uri).write(join(promoted.uri, weights), b"damaged")
    broken = on_cluster(
        manifest,
        "broken",
        model={"uri": None, "from": {"iteration": "first"}},
        serving={"bestOf": 3, "progressDeadlineSeconds": 60},
    )
    with Asking(team.address(ENDPOINT), ENDPOINT) as asking:
        team.apply(broken)
        found = team.wait(ITERATIONS, "broken", STALLED)
    assert condition("Stalled", "True", "RolledBack")(found)
    assert asking.failures == []
    assert set(asking.revisions) == {fingerprint(finished)}
    assert stage_of(found, "evaluation")["state"] == "Done"
    print(condition_of(found, "Serving")["message"])
