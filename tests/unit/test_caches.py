"""What the watches and the answers to writes leave in the caches, and whom it concerns."""

from __future__ import annotations

from typing import Any

import pytest

from feedback_operator.cluster.kubernetes.caches import Caches, Store
from feedback_operator.cluster.kubernetes.observed import Identity

Body = dict[str, Any]


def which(version: int, uid: str = "u", name: str = "a") -> Identity:
    return Identity("ns", name, uid, version)


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store: Store[str] = Store()
    assert store.put(which(2), "g", "two")
    assert not store.put(which(1), "g", "one")
    assert store.get("ns/a").value == "two"  # type: ignore[union-attr]


def test_a_version_that_says_the_same_is_no_news_but_is_kept() -> None:
    store: Store[str] = Store()
    store.put(which(1), "g", "same")
    assert not store.put(which(2), "g", "same")
    assert store.get("ns/a").identity.version == 2  # type: ignore[union-attr]


def test_what_is_gone_stays_gone_even_if_the_answer_to_its_creation_comes_late() -> None:
    store: Store[str] = Store()
    store.drop("ns/a", "u")
    assert not store.put(which(1), "g", "late")
    assert store.get("ns/a") is None


def test_the_next_one_of_a_name_is_not_touched_by_the_end_of_the_last_one() -> None:
    store: Store[str] = Store()
    store.put(which(1, uid="old"), "old-owner", "old")
    store.put(which(5, uid="new"), "new-owner", "new")
    assert not store.drop("ns/a", "old")
    assert [entry.value for entry in store.of("new-owner")] == ["new"]
    assert list(store.of("old-owner")) == []


# ── whom it concerns ─────────────────────────────────────────────────────────────────────────────────────────────────


def iteration(
    name: str, version: int = 1, parent: str = "", endpoint: str = "", status: Body | None = None, uid: str = ""
) -> Body:
    spec: Body = {"model": {"from": {"iteration": parent}} if parent else {"uri": "s3://b/m"}}
    if endpoint:
        spec["serving"] = {"endpoint": endpoint}
    return {
        "apiVersion": "feedback.rlaif.dev/v1alpha1",
        "kind": "FeedbackIteration",
        "metadata": {"namespace": "ns", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)},
        "spec": spec,
        "status": status or {},
    }


def child(kind: str, name: str, owner: str, version: int = 1, **more: Any) -> Body:
    owner_kind = "Job" if kind == "Pod" else "FeedbackIteration"
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"feedback.rlaif.dev/iteration": "it", "feedback.rlaif.dev/endpoint": "answers"}
            if kind in ("Deployment", "Service")
            else {"feedback.rlaif.dev/iteration": "it"},
            "ownerReferences": [{"kind": owner_kind, "name": owner, "uid": f"uid-{owner}", "controller": True}],
        },
        "spec": {},
        **more,
    }


def ended(code: int) -> Body:
    return {"containerStatuses": [{"name": "stage", "state": {"terminated": {"exitCode": code}}}]}


PROMOTED = {"conditions": [{"type": "Promoted", "status": "True", "reason": "GatePassed"}]}


@pytest.fixture
def caches() -> Caches:
    known = Caches()
    for body in (
        iteration("parent"),
        iteration("child", parent="parent"),
        iteration("it", endpoint="answers"),
        iteration("rival", endpoint="answers"),
        iteration("stranger"),
    ):
        known.put("FeedbackIteration", body)
    known.put("Job", child("Job", "running", "it"))
    return known


@pytest.mark.parametrize(
    ("kind", "body", "concerned"),
    [
        pytest.param("Job", child("Job", "j", "it"), {"ns/it"}, id="a Job: its iteration"),
        pytest.param("Pod", child("Pod", "p", "j"), set(), id="a pod that is well"),
        pytest.param("Pod", child("Pod", "p", "j", status=ended(1)), {"ns/it"}, id="a pod that failed: its iteration"),
        pytest.param("Pod", child("Pod", "p", "j", status=ended(0)), {"ns/it"}, id="a result after its Job's end"),
        pytest.param("Pod", child("Pod", "p", "running", status=ended(0)), set(), id="a result before its Job's end"),
        pytest.param("Deployment", child("Deployment", "d", "it"), {"ns/it"}, id="an endpoint's object: who holds it"),
        pytest.param(
            "FeedbackIteration",
            iteration("parent", 2, status={"stage": "splitting"}),
            {"ns/parent"},
            id="its own course",
        ),
        pytest.param(
            "FeedbackIteration",
            iteration("parent", 2, status=PROMOTED),
            {"ns/parent", "ns/child"},
            id="promotion: those that follow it",
        ),
        pytest.param(
            "FeedbackIteration",
            iteration("it", 2, endpoint="answers", status=PROMOTED),
            {"ns/it", "ns/rival"},
            id="promotion: those that name its endpoint",
        ),
        pytest.param(
            "FeedbackIteration",
            iteration("it", 2, endpoint="other"),
            {"ns/it", "ns/rival"},
            id="it leaves its endpoint: those that stay",
        ),
        pytest.param("FeedbackIteration", iteration("parent"), set(), id="nothing new"),
    ],
)
def test_put_says_whom_it_concerns(caches: Caches, kind: str, body: Body, concerned: set[str]) -> None:
    assert set(caches.put(kind, body)) == concerned


def test_the_end_of_an_iteration_concerns_those_that_follow_it_and_share_its_endpoint(caches: Caches) -> None:
    assert set(caches.drop("FeedbackIteration", iteration("parent"))) == {"ns/parent", "ns/child"}
    assert set(caches.drop("FeedbackIteration", iteration("it", endpoint="answers"))) == {"ns/it", "ns/rival"}
    assert caches.drop("FeedbackIteration", iteration("it", endpoint="answers")) == ()


def test_a_child_that_changes_its_mind_follows_nobody_any_more(caches: Caches) -> None:
    caches.put("FeedbackIteration", iteration("child", 2))
    assert caches.children("ns/parent") == ()


def test_jobs_belong_to_the_very_iteration_that_made_them(caches: Caches) -> None:
    """A new iteration of an old name adopts nothing."""
    assert [entry.identity.name for entry in caches.jobs.of("uid-it")] == ["running"]
    assert list(caches.jobs.of("uid-of-its-successor")) == []


def test_an_endpoints_objects_of_different_kinds_may_share_a_name(caches: Caches) -> None:
    caches.put("Deployment", child("Deployment", "answers", "it"))
    service = child("Service", "answers", "it")
    service["metadata"]["uid"] = "uid-service"
    caches.put("Service", service)
    assert len(list(caches.objects.of("ns/answers"))) == 2
    caches.drop("Service", service)
    assert len(list(caches.objects.of("ns/answers"))) == 1


@pytest.mark.parametrize("namespace", ["", "ns"], ids=["all namespaces", "its namespace"])
@pytest.mark.parametrize("kind", ["FeedbackIteration", "Job", "Pod", "Deployment", "Service"])
def test_what_vanished_unseen_does_not_stay(kind: str, namespace: str) -> None:
    known = Caches()
    gone, there, new = (_made(kind, name, version) for name, version in (("gone", 1), ("there", 2), ("new", 9)))
    for body in (gone, there, new):
        known.put(kind, body)
    assert known.retain(kind, namespace, {"uid-there"}, version=5) == 1
    stores = (known.iterations, known.jobs, known.pods, known.objects)
    left = {entry.identity.uid for store in stores for entry in store.entries()}
    assert left == {"uid-there", "uid-new"}, "what came after the list was made stays"
    assert list(known.jobs_at("gone")) == []
    assert known.put(kind, gone) == (), "an answer that comes late does not bring it back"


@pytest.mark.parametrize(("kind", "namespace"), [("Service", ""), ("Job", ""), ("Deployment", "other")])
def test_a_list_of_one_kind_or_namespace_says_nothing_of_others(kind: str, namespace: str) -> None:
    known = Caches()
    known.put("Deployment", _made("Deployment", "there", 1))
    assert known.retain(kind, namespace, (), version=5) == 0
    assert len(known.objects) == 1


def _made(kind: str, name: str, version: int) -> Body:
    if kind == "FeedbackIteration":
        return iteration(name, version)
    made = child(kind, name, "it", version)
    made["metadata"]["annotations"] = {"feedback.rlaif.dev/address": name}
    return made


def test_a_preempted_pod_is_not_forgotten_with_its_object(caches: Caches) -> None:
    """It is deleted at once; its Job fails later, by what that did to the others."""
    disrupted = {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}
    pod = child("Pod", "p", "running", status=disrupted)
    caches.put("Pod", pod)
    caches.drop("Pod", pod)
    assert "uid-running" in caches.disrupted


def test_jobs_are_found_by_the_address_of_what_they_make(caches: Caches) -> None:
    job = child("Job", "trainer", "it")
    job["metadata"]["annotations"] = {"feedback.rlaif.dev/address": "abc"}
    caches.put("Job", job)
    assert [entry.identity.name for entry in caches.jobs_at("abc")] == ["trainer"]
    caches.drop("Job", job)
    assert list(caches.jobs_at("abc")) == []
