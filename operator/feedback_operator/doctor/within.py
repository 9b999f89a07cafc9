"""The namespace that iterations are in: accounts, Secrets, storage, quotas, queues, and what admission says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from feedback_operator.api import FeedbackIteration
from feedback_operator.doctor.control import CREATE_PODS
from feedback_operator.doctor.facts import (
    DryRun,
    Facts,
    Finding,
    Object,
    Unknown,
    condition,
    listed,
    name_of,
    quantity,
)
from feedback_operator.doctor.needs import (
    Need,
    limited,
    named_claims,
    named_objects,
    named_secrets,
    queue_of,
    requested,
)

DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
MANY_WRITERS: Final = "ReadWriteMany"
TELLS_NOTHING: Final = ("Secret", "PersistentVolumeClaim", "LocalQueue", "FeedbackIteration")
"""Kinds that have a check of their own; of others it is enough that they are there."""


# ── what an iteration names ──────────────────────────────────────────────────────────────────────────────────────────


def check_named(facts: Facts, iteration: FeedbackIteration, needs: Sequence[Need]) -> Iterator[Finding]:
    """Everything that the pods cannot do without is there."""
    for kind, name in dict.fromkeys(named_objects(iteration, needs)):
        if kind in TELLS_NOTHING:
            continue
        found = facts.objects.get((kind, name))
        if isinstance(found, Unknown):
            yield Finding(f"{kind} {name}", "not looked at", found.why)
        elif found is None:
            yield Finding(
                f"{kind} {name}",
                "failed",
                f"is not in the namespace {facts.namespace}",
                f"create it, or correct {listed(_who_names(kind, name, iteration, needs))}",
            )
        else:
            yield Finding(f"{kind} {name}", "ok", "is there")
    yield from check_accounts(facts, needs)
    yield from check_parent(facts, iteration)


def _who_names(kind: str, name: str, iteration: FeedbackIteration, needs: Sequence[Need]) -> list[str]:
    return [f"{need.field}.pod" for need in needs if (kind, name) in named_objects(iteration, [need])]


def check_accounts(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    """Pods of stages need no right; an account that has some lends them to whoever takes a pod over."""
    for account in dict.fromkeys(need.account for need in needs):
        may = facts.account_rights.get(account)
        if isinstance(may, Unknown):
            yield Finding(f"rights of {account}", "not looked at", may.why)
        elif may:
            yield Finding(
                f"rights of {account}",
                "warning",
                "it may read Secrets; pods of stages mount no token of it, and need no right",
                "take its role bindings away, or name an account that has none",
            )
        elif may is False:
            yield Finding(f"rights of {account}", "ok", "it may not read Secrets")


def check_parent(facts: Facts, iteration: FeedbackIteration) -> Iterator[Finding]:
    parent = iteration.spec.model.from_
    if parent is None:
        return
    found = facts.objects.get(("FeedbackIteration", parent.iteration))
    if isinstance(found, Unknown):
        yield Finding("parent", "not looked at", found.why)
    elif found is None:
        yield Finding(
            "parent",
            "warning",
            f"there is no iteration {parent.iteration} in the namespace {facts.namespace} yet",
            "submit it, too",
        )
    else:
        yield Finding("parent", "ok", f"iteration {parent.iteration} is there")


def check_secrets(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    """Secrets are there with the keys that are asked of them. Their values are not looked at."""
    wanted: dict[str, dict[str, None]] = {}
    for need in needs:
        for name, keys in named_secrets(need).items():
            wanted.setdefault(name, {}).update(dict.fromkeys(keys))
    for name, asked in wanted.items():
        found = facts.objects.get(("Secret", name))
        users = [f"{need.field}.pod" for need in needs if name in named_secrets(need)]
        if isinstance(found, Unknown):
            yield Finding(f"Secret {name}", "not looked at", found.why)
        elif found is None:
            yield Finding(
                f"Secret {name}",
                "failed",
                f"is not in the namespace {facts.namespace}",
                f"kubectl create secret generic {name} -n {facts.namespace} ..., or correct {listed(users)}",
            )
        elif lacking := [key for key in asked if key not in (found.get("data") or {})]:
            yield Finding(
                f"Secret {name}",
                "failed",
                f"has no {listed(lacking)}; it has {listed(sorted(found.get('data') or {}), 6) or 'nothing'}",
                "add it, or name the key that is there",
            )
        elif not found.get("data"):
            yield Finding(f"Secret {name}", "warning", "is empty", "put what the pods need into it")
        else:
            yield Finding(f"Secret {name}", "ok", f"has {listed(sorted(found['data']), 6)}")


# ── storage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_storage(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    """Classes that claims ask for, and the claims of caches."""
    yield from _classes(facts, needs)
    users: dict[str, list[Need]] = {}
    for need in needs:
        for name in named_claims(need.section.pod):
            users.setdefault(name, []).append(need)
    for name, having in users.items():
        yield _claim(facts, name, having)


def _classes(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    if isinstance(facts.storage_classes, Unknown):
        yield Finding("storage classes", "not looked at", facts.storage_classes.why)
        return
    names = {name_of(one) for one in facts.storage_classes}
    default = [
        name_of(one)
        for one in facts.storage_classes
        if (one["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    ]
    spaces = [
        (need, space.ephemeral.storage_class_name)
        for need in needs
        for space in (need.section.pod.cache, need.section.pod.scratch)
        if space and space.ephemeral
    ]
    for need, wanted in spaces:
        if wanted is None and not default:
            yield Finding(
                f"{need.name}: claims",
                "failed",
                "ask for the default storage class, and there is none",
                f"name one of {listed(sorted(names)) or 'your own'} in {need.field}.pod, or make one the default",
            )
        elif wanted is not None and wanted not in names:
            yield Finding(
                f"{need.name}: claims",
                "failed",
                f"ask for the storage class {wanted}, which is not there",
                f"name one of {listed(sorted(names)) or 'your own'} in {need.field}.pod",
            )
    if default:
        yield Finding("storage classes", "ok", f"{default[0]} is the default")
    else:
        yield Finding(
            "storage classes",
            "ok" if needs and not spaces else "warning",
            "none is the default" + ("" if needs else ", so claims have to name theirs"),
            "" if needs and not spaces else "kubectl get storageclass; name one in pod.cache and pod.scratch",
        )


def _claim(facts: Facts, name: str, having: Sequence[Need]) -> Finding:
    check = f"claim {name}"
    found = facts.objects.get(("PersistentVolumeClaim", name))
    if isinstance(found, Unknown):
        return Finding(check, "not looked at", found.why)
    if found is None:
        return Finding(
            check,
            "failed",
            f"is not in the namespace {facts.namespace}",
            f"create it, or correct {listed([f'{need.field}.pod' for need in having])}",
        )
    phase = found.get("status", {}).get("phase", "Pending")
    if phase == "Lost":
        return Finding(check, "failed", "has lost its volume", f"kubectl describe pvc {name} -n {facts.namespace}")
    several = [need.name for need in having if need.pods > 1]
    if several and MANY_WRITERS not in found["spec"].get("accessModes", ()):
        return Finding(
            check,
            "warning",
            f"is not {MANY_WRITERS}, and {listed(several)} may have pods on several nodes",
            f"make it {MANY_WRITERS}, or take pod.cache.ephemeral",
        )
    if phase != "Bound":
        return Finding(
            check,
            "warning",
            f"is {phase}: it has no volume yet",
            f"some classes wait for the first pod; else: kubectl describe pvc {name} -n {facts.namespace}",
        )
    return Finding(check, "ok", "is bound")


# ── quotas and limits ────────────────────────────────────────────────────────────────────────────────────────────────


def check_quotas(facts: Facts, needs: Sequence[Need], pods: Mapping[str, Object]) -> Iterator[Finding]:
    """The namespace's quotas and limits let the pods of each section be made."""
    if isinstance(facts.quotas, Unknown):
        yield Finding("quotas", "not looked at", facts.quotas.why)
    else:
        over = [found for need in needs for found in _over_quota(facts.quotas, need, pods[need.name])]
        yield from over
        if not over:
            names = [name_of(one) for one in facts.quotas]
            yield Finding("quotas", "ok", f"{listed(names)}: {_left(facts.quotas)}" if names else "none")
    if isinstance(facts.limit_ranges, Unknown):
        yield Finding("limit ranges", "not looked at", facts.limit_ranges.why)
    else:
        outside = [found for need in needs for found in _outside_range(facts.limit_ranges, need, pods[need.name])]
        yield from outside
        if not outside:
            names = [name_of(one) for one in facts.limit_ranges]
            yield Finding("limit ranges", "ok", f"{listed(names)}: nothing is outside of them" if names else "none")


def _left(quotas: Sequence[Object]) -> str:
    words = [
        f"{name} {(one['status'].get('used') or {}).get(name, '0')} of {hard} used"
        for one in quotas
        for name, hard in (one.get("status", {}).get("hard") or {}).items()
    ]
    return listed(words, 4) or "nothing is limited"


def counted(pod: Object, number: int) -> dict[str, Decimal]:
    """What `number` such pods take of a quota, by the names that quotas have."""
    asked, limits = requested(pod), limited(pod)
    found = {"pods": Decimal(number), "count/pods": Decimal(number), "count/jobs.batch": Decimal(1)}
    for name, each in asked.items():
        if name != "pods":
            found[f"requests.{name}"] = each * number
            if name in ("cpu", "memory", "ephemeral-storage"):
                found[name] = each * number
    return found | {f"limits.{name}": each * number for name, each in limits.items()}


def _over_quota(quotas: Sequence[Object], need: Need, pod: Object) -> Iterator[Finding]:
    takes = counted(pod, need.pods)
    for quota in quotas:
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):
            continue
        used = quota.get("status", {}).get("used") or {}
        for name, hard in (quota["spec"].get("hard") or {}).items():
            if name not in takes:
                continue
            asked, most, gone = takes[name], quantity(hard), quantity(used.get(name, 0))
            told = f"{name_of(quota)}: {name} is {hard}, {used.get(name, 0)} used; its pods take {asked.normalize():f}"
            if asked > most:
                yield Finding(
                    f"{need.name}: quota",
                    "failed",
                    told,
                    f"lower {need.field}.resources or its pods, or raise the quota",
                )
            elif asked > most - gone:
                yield Finding(f"{need.name}: quota", "warning", told, "wait until others end, or raise the quota")


def _outside_range(ranges: Sequence[Object], need: Need, pod: Object) -> Iterator[Finding]:
    asked, limits = requested(pod), limited(pod)
    for one in ranges:
        for rule in one["spec"]["limits"]:
            if rule["type"] not in ("Container", "Pod"):
                continue
            for name, most in (rule.get("max") or {}).items():
                given = limits.get(name, asked.get(name, Decimal(0)))
                if given > quantity(most):
                    yield _outside(one, need, f"{name} is {given.normalize():f}, at most {most} is allowed")
            for name, least in (rule.get("min") or {}).items():
                if name in asked and asked[name] < quantity(least):
                    yield _outside(one, need, f"{name} is {asked[name].normalize():f}, at least {least} is asked for")


def _outside(one: Object, need: Need, told: str) -> Finding:
    return Finding(
        f"{need.name}: limits", "failed", f"limit range {name_of(one)}: {told}", f"correct {need.field}.resources"
    )


# ── Kueue ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_queue(
    facts: Facts, iteration: FeedbackIteration, needs: Sequence[Need], pods: Mapping[str, Object]
) -> Iterator[Finding]:
    """The queue that the iteration names is there, takes work, and can ever give what a stage asks for."""
    queue = queue_of(iteration)
    if queue is None:
        return
    found = facts.objects.get(("LocalQueue", queue))
    if isinstance(found, Unknown):
        yield Finding("queue", "not looked at", found.why)
        return
    if found is None:
        known = any(group.startswith("kueue.") for group in facts.groups)
        yield Finding(
            "queue",
            "failed",
            f"{queue} is not in the namespace {facts.namespace}" if known else "the cluster has no Kueue",
            "create the LocalQueue" if known else "install Kueue, or leave the label kueue.x-k8s.io/queue-name out",
        )
        return
    yield _active(found, f"queue {queue}", f"kubectl describe localqueue {queue} -n {facts.namespace}")
    name = found["spec"].get("clusterQueue", "")
    above = facts.cluster_queue
    if isinstance(above, Unknown):
        yield Finding(f"cluster queue {name}", "not looked at", above.why)
    elif above is None:
        yield Finding(f"cluster queue {name}", "failed", "is not there", "create it, or correct the LocalQueue")
    else:
        yield _active(above, f"cluster queue {name}", f"kubectl describe clusterqueue {name}")
        yield from _over_queue(above, needs, pods)


def _active(queue: Object, check: str, remedy: str) -> Finding:
    told = condition(queue, "Active")
    if told.get("status") == "False":
        return Finding(check, "failed", f"takes no work: {told.get('message') or told.get('reason')}", remedy)
    return Finding(check, "ok", "takes work")


def _over_queue(queue: Object, needs: Sequence[Need], pods: Mapping[str, Object]) -> Iterator[Finding]:
    """Without a cohort, nobody lends the queue anything."""
    if queue["spec"].get("cohort") or queue["spec"].get("cohortName"):
        return
    most: dict[str, Decimal] = {}
    for group in queue["spec"].get("resourceGroups") or ():
        for flavor in group["flavors"]:
            for resource in flavor["resources"]:
                here = most.get(resource["name"], Decimal(0))
                most[resource["name"]] = max(here, quantity(resource["nominalQuota"]))
    for need in needs:
        for name, each in requested(pods[need.name]).items():
            if name in most and each * need.pods > most[name]:
                yield Finding(
                    f"{need.name}: queue",
                    "failed",
                    f"its {need.pods} pods ask for {(each * need.pods).normalize():f} {name}, and no flavor of "
                    f"{name_of(queue)} has more than {most[name].normalize():f}",
                    f"lower {need.field}.resources or its pods, or raise the quota of {name_of(queue)}",
                )


# ── admission ────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_admission(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    """What the API server says of the iteration and of its pods without making them: rules, policies, webhooks."""
    yield _admitted("iteration", facts.dry_run, "correct the field, or have the policy changed")
    for need in needs:
        told = facts.dry_runs.get(need.name, Unknown("it was not asked"))
        yield _admitted(f"{need.name}: pod", told, f"correct {need.field}, or have what refuses it changed")


def _admitted(check: str, told: DryRun | Unknown, remedy: str) -> Finding:
    if isinstance(told, Unknown):
        return Finding(check, "not looked at", told.why)
    if told.refusal:
        return Finding(check, "failed", f"would be refused: {told.refusal}", remedy)
    return Finding(check, "ok", "would be admitted")


def may_create_pods(facts: Facts) -> bool | Unknown:
    return facts.rights.get(CREATE_PODS, Unknown("it was not asked whether you may create pods"))
