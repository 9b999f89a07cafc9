"""`feedback doctor`: asks a cluster for what is to be known of it, and has pods try things out."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from feedback_operator.api import API_VERSION, FeedbackIteration, Metadata
from feedback_operator.api.calls import BY_NAME
from feedback_operator.api.schema import NAME as DEFINITION
from feedback_operator.api.schema import PLURAL
from feedback_operator.cli.cluster_errors import ClusterError, ClusterUnavailable, Forbidden, ManifestRejected, NotFound
from feedback_operator.cli.remote import JOB_LABEL, Remote
from feedback_operator.doctor.control import (
    CREATE_PODS,
    OF_THE_CHART,
    TRY,
    USER,
    account_of,
    house_of,
    images_of,
    operator_for,
    rights_of_the_operator,
)
from feedback_operator.doctor.examination import examine
from feedback_operator.doctor.facts import DryRun, Facts, Finding, Found, Listed, Object, Right, Trial, Unknown, name_of
from feedback_operator.doctor.needs import Need, images_alone, named_objects, needs_of, pod_manifest, queue_of
from feedback_operator.doctor.trials import IMAGE_UNKNOWN, Group, ended, groups, groups_of_images, job, waits_for
from feedback_operator.resources.house_rules import HouseRules

LOOK_SECONDS: Final = 1.0
SYSTEM_NAMESPACE: Final = "feedback-system"
"""Where the operator is as docs/install.md has it; looked at by those who may not look everywhere."""
LEASE: Final = "feedback-operator"
KUEUE: Final = "kueue.x-k8s.io"
SECRETS: Final = Right("get", "", "secrets")
PATHS: Final = {
    "Secret": "/api/v1/namespaces/{}/secrets/{}",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps/{}",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts/{}",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims/{}",
    "ResourceClaimTemplate": "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaimtemplates/{}",
    "LocalQueue": f"/apis/{BY_NAME['Workload'].api_version}/namespaces/{{}}/localqueues/{{}}",
    "FeedbackIteration": f"/apis/{API_VERSION}/namespaces/{{}}/{PLURAL}/{{}}",
}


POD_SECONDS: Final = 600
"""Images of several GB are pulled meanwhile."""


class Form(StrEnum):
    """How findings are told."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Wish:
    """What the doctor is to do: whether pods are started, how long they are waited for, and where it is told."""

    pods: bool
    pod_seconds: float
    tell: Callable[[str], None]


def examined(remote: Remote, iteration: FeedbackIteration | None, wish: Wish) -> list[Finding]:
    """Everything that is found about a namespace of a cluster, and about an iteration there.

    Raises ClusterError only where the API server cannot be used at all.
    """
    facts = _cluster(remote)
    deployment = operator_for(facts)
    owner = iteration.metadata if iteration else Metadata(name="doctor")
    owner = owner.model_copy(update={"namespace": remote.namespace})
    images = images_of(deployment)
    needs = needs_of(iteration, images) if iteration else images_alone(images)
    house = house_of(deployment)
    pods: dict[str, Object] = {need.name: _followed(pod_manifest(owner, need), house, owner) for need in needs}
    facts = _namespace(remote, facts, iteration, needs)
    if iteration:
        facts = replace(
            facts, dry_run=_dry(partial(remote.dry_apply, iteration)), dry_runs=_dry_runs(remote, facts, pods)
        )
    admitted = {
        name: told.pod for name, told in facts.dry_runs.items() if isinstance(told, DryRun) and told.pod is not None
    }
    chosen = groups(iteration, needs) if iteration else groups_of_images(needs)
    facts = replace(
        facts, trials=_trials(remote, facts, wish, [(one, job(one, owner, _name(), house)) for one in chosen])
    )
    return list(examine(facts, iteration, needs, {**pods, **admitted}))


def _name() -> str:
    return f"feedback-doctor-{uuid.uuid4().hex[:6]}"


def _followed(pod: Object, house: HouseRules, owner: Metadata) -> Object:
    """The pod with what the operator is to add to all that it makes."""
    labelled = house.followed({"kind": "Job", "metadata": {"labels": {}}, "spec": {"template": pod}}, owner)
    made: Object = labelled["spec"]["template"]
    return made


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


def as_text(found: Mapping[str, Sequence[Finding]]) -> str:
    """A line a check, and below it what to do; findings are by the iteration that they are about."""
    lines: list[str] = []
    for name, findings in found.items():
        lines += [f"{name}:"] if name else []
        for finding in findings:
            lines.append(f"{finding.outcome:13} {finding.check}: {finding.message}")
            lines += [f"{'':13} -> {finding.remedy}"] if finding.remedy else []
    numbers = Counter(finding.outcome for findings in found.values() for finding in findings)
    return "\n".join([*lines, "", ", ".join(f"{number} {outcome}" for outcome, number in sorted(numbers.items()))])


def as_json(found: Mapping[str, Sequence[Finding]]) -> str:
    """The same for programs."""
    told = [{"iteration": name, "checks": [asdict(one) for one in findings]} for name, findings in found.items()]
    return json.dumps(told, indent=1)


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cluster(remote: Remote) -> Facts:
    """What does not depend on an iteration."""
    version, now = remote.version()
    groups_ = frozenset(one["name"] for one in remote.get("/apis")["groups"])
    operators = _operators(remote)
    spaces = {one["metadata"]["namespace"] for one in operators} if isinstance(operators, tuple) else set()
    pods = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="}
    classes = "/apis/resource.k8s.io/v1/deviceclasses" if "resource.k8s.io" in groups_ else None
    return Facts(
        namespace=remote.namespace,
        version=version,
        now=now,
        groups=groups_,
        definition=_found(remote, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{DEFINITION}"),
        space=_found(remote, f"/api/v1/namespaces/{remote.namespace}"),
        operators=operators,
        leases={
            space: _found(remote, f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases/{LEASE}") for space in spaces
        },
        rights=_rights(remote, USER, "self"),
        nodes=_listed(remote, "/api/v1/nodes"),
        pods=_listed(remote, "/api/v1/pods", pods),
        device_classes=_listed(remote, classes) if classes else (),
        storage_classes=_listed(remote, "/apis/storage.k8s.io/v1/storageclasses"),
    )


def _operators(remote: Remote) -> Listed:
    """Deployments of operators; of some namespaces alone where the user may not look into all of them."""
    query = {"labelSelector": OF_THE_CHART}
    everywhere = _listed(remote, "/apis/apps/v1/deployments", query)
    if isinstance(everywhere, tuple):
        return everywhere
    found: list[Object] = []
    for space in dict.fromkeys((remote.namespace, SYSTEM_NAMESPACE)):
        here = _listed(remote, f"/apis/apps/v1/namespaces/{space}/deployments", query)
        found += here if isinstance(here, tuple) else []
    return tuple(found) or everywhere


def _namespace(remote: Remote, facts: Facts, iteration: FeedbackIteration | None, needs: Sequence[Need]) -> Facts:
    """What the namespace has of what pods need."""
    space, deployment = remote.namespace, operator_for(facts)
    objects: dict[tuple[str, str], Found] = {}
    for kind, name in dict.fromkeys(named_objects(iteration, needs)) if iteration else ():
        objects[kind, name] = _without_values(_found(remote, PATHS[kind].format(space, quote(name))))
    accounts = dict.fromkeys(need.account for need in needs) if iteration else {}
    return replace(
        facts,
        operator_rights=_rights(remote, rights_of_the_operator(iteration), *account_of(deployment))
        if deployment
        else {},
        account_rights={name: _rights(remote, (SECRETS,), space, name)[SECRETS] for name in accounts},
        quotas=_listed(remote, f"/api/v1/namespaces/{space}/resourcequotas"),
        limit_ranges=_listed(remote, f"/api/v1/namespaces/{space}/limitranges"),
        objects=objects,
        cluster_queue=_cluster_queue(remote, iteration, objects),
    )


def _cluster_queue(
    remote: Remote, iteration: FeedbackIteration | None, objects: Mapping[tuple[str, str], Found]
) -> Found:
    queue = objects.get(("LocalQueue", queue_of(iteration) or "")) if iteration else None
    if queue is None or isinstance(queue, Unknown):
        return None
    name = quote(queue["spec"].get("clusterQueue", ""))
    return _found(remote, f"/apis/{BY_NAME['Workload'].api_version}/clusterqueues/{name}")


def _without_values(found: Found) -> Found:
    """Which keys a Secret has is all that is to be known of it."""
    if found is None or isinstance(found, Unknown) or "data" not in found:
        return found
    return {**found, "data": dict.fromkeys(found["data"] or {}, "")}


def _found(remote: Remote, path: str) -> Found:
    try:
        return remote.get(path)
    except NotFound:
        return None
    except Forbidden as error:
        return Unknown(_may_not(error))


def _listed(remote: Remote, path: str, query: Mapping[str, str] | None = None) -> Listed:
    try:
        return tuple(remote.get(path, query)["items"])
    except NotFound:
        return ()
    except Forbidden as error:
        return Unknown(_may_not(error))


def _may_not(error: Forbidden) -> str:
    """The first half of the sentence: the doctor goes on without."""
    return str(error).partition("; ")[0].partition(" in namespace")[0]


def _rights(remote: Remote, rights: Sequence[Right], who: str, account: str = "") -> dict[Right, bool | Unknown]:
    """Whether you may (`who` is self), or the ServiceAccount of this name in the namespace `who`."""
    found: dict[Right, bool | Unknown] = {}
    for right in rights:
        resource, _, subresource = right.resource.partition("/")
        asked = {
            "namespace": remote.namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
        }
        spec: dict[str, Any] = {"resourceAttributes": asked}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        if account:
            path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
            all_of_them = "system:serviceaccounts"
            spec |= {
                "user": f"system:serviceaccount:{who}:{account}",
                "groups": [all_of_them, f"{all_of_them}:{who}", "system:authenticated"],
            }
        try:
            found[right] = bool(remote.create(path, {"spec": spec})["status"]["allowed"])
        except Forbidden as error:
            return dict.fromkeys(rights, Unknown(_may_not(error)))
    return found


# ── dry runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _dry_runs(remote: Remote, facts: Facts, pods: Mapping[str, Object]) -> dict[str, DryRun | Unknown]:
    if facts.rights.get(CREATE_PODS) is not True:
        return dict.fromkeys(pods, Unknown("you may not create pods"))
    path = f"/api/v1/namespaces/{remote.namespace}/pods"
    return {
        name: _dry(partial(remote.create, path, pod, {"dryRun": "All"}))
        if pod["spec"]["containers"][0]["image"]
        else Unknown(IMAGE_UNKNOWN)
        for name, pod in pods.items()
    }


def _dry(attempt: Callable[[], Object | None]) -> DryRun | Unknown:
    try:
        return DryRun(attempt())
    except Forbidden as error:
        return DryRun(refusal=error.said)
    except ManifestRejected as error:
        return DryRun(refusal=" ".join(str(error).splitlines()))
    except ClusterUnavailable:
        raise
    except ClusterError as error:
        return Unknown(str(error))


# ── trials ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trials(
    remote: Remote, facts: Facts, wish: Wish, wanted: Sequence[tuple[Group, Object]]
) -> tuple[Trial, ...] | Unknown:
    """Start the Jobs, wait until their pods have ended, and take them away."""
    if not wish.pods:
        return Unknown("pods were not to be started (--no-pods)")
    lacking = [str(right) for right in TRY if facts.rights.get(right) is not True]
    if lacking:
        return Unknown(f"you may not {', '.join(lacking)}")
    if not wanted:
        return Unknown("no image is known, since no operator of the namespace was seen")
    path = f"/apis/batch/v1/namespaces/{remote.namespace}/jobs"
    begun: list[str] = []
    found: list[Trial] = []
    try:
        waiting: list[tuple[Group, str]] = []
        for group, manifest in wanted:
            if not group.needs[0].image:
                found.append(Trial(group.sections, ""))
                continue
            told = _dry(partial(remote.create, path, manifest))
            if isinstance(told, DryRun) and told.pod is not None:
                begun.append(name_of(told.pod))
                waiting.append((group, begun[-1]))
            else:
                why = told.why if isinstance(told, Unknown) else told.refusal
                found.append(Trial(group.sections, group.needs[0].image, trouble=f"its Job was refused: {why}"))
        if waiting:
            wish.tell(f"{len(waiting)} pods try what the stages would use, once their images are pulled")
        return (*found, *_awaited(remote, wish, path, waiting))
    finally:
        for name in begun:
            remote.remove(f"{path}/{name}")


def _awaited(remote: Remote, wish: Wish, path: str, waiting: Sequence[tuple[Group, str]]) -> list[Trial]:
    deadline = time.monotonic() + wish.pod_seconds
    found: list[Trial] = []
    left = list(waiting)
    while left:
        late = time.monotonic() > deadline
        still: list[tuple[Group, str]] = []
        for group, name in left:
            query = {"labelSelector": f"{JOB_LABEL}={name}"}
            pods = remote.get(f"/api/v1/namespaces/{remote.namespace}/pods", query)["items"]
            trial = ended(group, pods[0]) if pods else None
            if trial is None and late:
                why = waits_for(pods[0] if pods else None, remote.get(f"{path}/{name}"))
                trial = Trial(group.sections, group.needs[0].image, trouble=f"{why} (after {wish.pod_seconds:.0f} s)")
            if trial is None:
                still.append((group, name))
            else:
                found.append(trial)
        left = still
        if left:
            time.sleep(LOOK_SECONDS)
    return found
