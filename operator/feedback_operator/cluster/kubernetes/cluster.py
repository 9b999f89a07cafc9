"""A Kubernetes cluster: snapshots from caches, writes through one client, answers back into the caches."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.api.calls import BY_NAME, Kind
from feedback_operator.cluster.kubernetes.apiserver import ApiServer, Conflict, Exists, Missing, Refused, merge_patch
from feedback_operator.cluster.kubernetes.caches import Caches, Entry
from feedback_operator.cluster.kubernetes.observed import (
    Identity,
    ObservedIteration,
    evictions_of,
    identity_of,
    owner_of,
    pods_by_index,
    words_of_events,
    words_of_workloads,
)
from feedback_operator.cluster.kubernetes.progress_board import ProgressBoard
from feedback_operator.cluster.protocol import Blocked
from feedback_operator.plan.blocked import blocked
from feedback_operator.plan.chain import parent_of
from feedback_operator.plan.endpoint import claimants, has_canaries
from feedback_operator.plan.missing_pods import waits_in_queue
from feedback_operator.plan.snapshot import Endpoint, Job, Limits, Pod, Snapshot, Words
from feedback_operator.resources import Manifest, house_rules
from feedback_operator.resources.deployment import CANARY_SUFFIX
from feedback_operator.resources.house_rules import HouseRules
from feedback_operator.resources.job import SUSPENDED_ANNOTATION
from feedback_operator.stages import STAGES

logger = logging.getLogger(__name__)

ITERATION: Final = BY_NAME["FeedbackIteration"]
JOB: Final = BY_NAME["Job"]
POD: Final = BY_NAME["Pod"]
EVENT: Final = BY_NAME["Event"]
WORKLOAD: Final = BY_NAME["Workload"]
HTTP_ROUTE: Final = BY_NAME["HTTPRoute"]

SILENCE_SECONDS: Final = 300.0
"""A running Job that nothing was heard of for so long is read by name: whatever vanished while a watch was broken
longer than the API server remembers would otherwise be believed in for ever."""

PARSED_ITERATIONS: Final = 64


class KubernetesCluster:
    """The Cluster protocol on the Kubernetes API.

    `enqueue` is told the keys of other iterations that need a look because of what was learnt here: a watch that shows
    the same later shows no news.
    """

    def __init__(
        self,
        api: ApiServer,
        caches: Caches,
        board: ProgressBoard,
        limits: Limits,
        enqueue: Callable[[str], None],
        *,
        house: HouseRules = house_rules.NONE,
    ) -> None:
        self._api = api
        self._enqueue = enqueue
        self._caches = caches
        self._board = board
        self._limits = limits
        self._house = house

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def snapshot(self, key: str) -> Snapshot | None:
        entry = self._caches.iterations.get(key)
        if entry is None:
            return None
        if await self._verify_silent_jobs(entry):
            entry = self._caches.iterations.get(key)
            if entry is None:
                return None
        try:
            iteration = _parse(entry.value.text)
        except ValidationError as error:
            await self._report_invalid(entry, error)
            return None
        namespace = _Namespace(self._caches, iteration.metadata.namespace)
        return Snapshot(
            iteration=iteration,
            jobs=tuple(self._jobs(iteration.metadata.uid)),
            now=datetime.now(UTC),
            parent=parent_of(iteration, namespace),
            endpoint=await self._endpoint(iteration),
            limits=self._limits,
            elsewhere=_Elsewhere(self._caches, iteration),
            house=self._house,
        )

    def _jobs(self, uid: str) -> Iterator[Job]:
        for entry in self._caches.jobs.of(uid):
            uid, stage = entry.identity.uid, STAGES.get(entry.value.stage)
            yield replace(
                entry.value,
                pods=pods_by_index(pod.value for pod in self._caches.pods.of(uid)),
                pods_read=uid in self._caches.pods_read,
                evictions=evictions_of(pod.value for pod in self._caches.pods.of(uid)),
                disrupted=uid in self._caches.disrupted,
                words=self._caches.words.get(uid),
                units=self._board.units(uid, together=stage is not None and stage.together),
            )

    async def _endpoint(self, iteration: FeedbackIteration) -> Endpoint | None:
        serving, namespace = iteration.spec.serving, iteration.metadata.namespace
        if serving is None or serving.endpoint is None:
            return None
        group = f"{namespace}/{serving.endpoint}"
        iterations = [valid for entry in self._caches.iterations.of(group) if (valid := _valid(entry.value.text))]
        objects = tuple(entry.value for entry in self._caches.objects.of(group))
        if has_canaries(iterations, objects, serving.endpoint):
            objects += await self._route(namespace, serving.endpoint)
        return Endpoint(
            objects=objects,
            claimants=claimants(iterations, serving.endpoint),
            pods=self._pods_of_endpoint(group),
            canary_pods=self._pods_of_endpoint(f"{group}{CANARY_SUFFIX}"),
        )

    def _pods_of_endpoint(self, group: str) -> tuple[Pod, ...]:
        return tuple(replace(entry.value.pod, index=0) for entry in self._caches.pods.of(group))

    async def _route(self, namespace: str, name: str) -> tuple[Manifest, ...]:
        """The route of an endpoint. Where routes may not be read, the refusal to write one is what is told."""
        try:
            return (await self._api.get(HTTP_ROUTE, namespace, name),)
        except (Missing, Refused):
            return ()

    async def _report_invalid(self, entry: Entry[ObservedIteration], error: ValidationError) -> None:
        """Say in the status what is wrong with a spec that the API server let in and that cannot be worked with."""
        raw = json.loads(entry.value.text)
        meta, before = raw["metadata"], _status(raw["status"])
        after = blocked(
            before,
            "InvalidSpec",
            explanation(error),
            before=before.conditions,
            generation=meta["generation"],
            now=datetime.now(UTC),
        )
        if patch := merge_patch(_dump(before), _dump(after)):
            await self._patch_status(entry.identity, patch)

    async def _verify_silent_jobs(self, entry: Entry[ObservedIteration]) -> bool:
        """Ask for running Jobs that nothing was heard of, and then for their iteration; whether anything was asked."""
        limit = time.monotonic() - SILENCE_SECONDS
        silent = [
            job
            for job in self._caches.jobs.of(entry.identity.uid)
            if job.value.state in ("Active", "Suspended") and job.heard < limit
        ]
        for job in silent:
            await self._verify_job(job)
        if silent:
            await self._refresh_iteration(entry.identity)
        return bool(silent)

    async def _verify_job(self, job: Entry[Job]) -> None:
        identity = job.identity
        try:
            self._caches.put("Job", await self._api.get(JOB, identity.namespace, identity.name))
        except Missing:
            self._caches.drop_job(identity.key, identity.uid)
        there = await self._list_pods(identity)
        for pod in list(self._caches.pods.of(identity.uid)):
            if pod.identity.uid not in there and pod.heard < time.monotonic() - SILENCE_SECONDS:
                self._caches.pods.drop(pod.identity.key, pod.identity.uid)

    async def _list_pods(self, job: Identity) -> set[str]:
        """Ask for the pods of a Job; their uids."""
        bodies = await self._api.list(POD, job.namespace, f"batch.kubernetes.io/controller-uid={job.uid}")
        for body in bodies:
            self._caches.put(POD.name, body)
        return {identity_of(body).uid for body in bodies}

    async def _refresh_iteration(self, known: Identity) -> None:
        try:
            body = await self._api.get(ITERATION, known.namespace, known.name)
        except Missing:
            self._tell_others(known.key, self._caches.drop_iteration(known.key, known.uid))
        else:
            if body["metadata"]["uid"] != known.uid:
                self._tell_others(known.key, self._caches.drop_iteration(known.key, known.uid))
            self._tell_others(known.key, self._caches.put(ITERATION.name, body))

    async def read_pods(self, namespace: str, job: str) -> None:
        if entry := self._caches.jobs.get(f"{namespace}/{job}"):
            await self._list_pods(entry.identity)
            self._caches.pods_read.add(entry.identity.uid)

    async def ask(self, namespace: str, job: str) -> None:
        entry, asked = self._caches.jobs.get(f"{namespace}/{job}"), datetime.now(UTC)
        if entry is None:
            return
        try:
            words = await (self._words_of_kueue if waits_in_queue(entry.value) else self._words_of_events)(entry, asked)
        except Refused as error:
            logger.warning("why Job %s has no pods cannot be asked: %s", job, error)
            words = Words(asked)
        self._caches.words[entry.identity.uid] = words

    async def _words_of_events(self, job: Entry[Job], asked: datetime) -> Words:
        about = f"regarding.uid={job.identity.uid},reason=FailedCreate"
        return words_of_events(await self._api.list(EVENT, job.identity.namespace, fields=about), asked)

    async def _words_of_kueue(self, job: Entry[Job], asked: datetime) -> Words:
        try:
            kind = await self._api.preferred(WORKLOAD)
        except Missing:
            return Words(asked, "NoKueue", "the cluster has no Kueue")
        about = f"kueue.x-k8s.io/job-uid={job.identity.uid}"
        return words_of_workloads(await self._api.list(kind, job.identity.namespace, about), asked)

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, manifest: Manifest) -> None:
        kind, meta = BY_NAME[manifest["kind"]], manifest["metadata"]
        try:
            body = await self._api.create(kind, manifest)
        except Exists:
            if "get" not in kind.verbs:
                return
            body = await self._api.get(kind, meta["namespace"], meta["name"])
            _check_owner(body, manifest)
        except Refused as error:
            raise Blocked(f"{kind.name}Refused", f"{kind.name} {meta['name']}: {error.message}") from error
        self._remember(kind, body)

    async def suspend(self, namespace: str, job: str, suspended: bool) -> None:
        mark = {"annotations": {SUSPENDED_ANNOTATION: "true" if suspended else None}}
        await self._patch_job(namespace, job, {"metadata": mark, "spec": {"suspend": suspended}})

    async def adjust(self, namespace: str, job: str, deadline: int | None, ttl: int | None) -> None:
        given = {"activeDeadlineSeconds": deadline, "ttlSecondsAfterFinished": ttl}
        spec = {field: seconds for field, seconds in given.items() if seconds is not None}
        await self._patch_job(namespace, job, {"spec": spec})

    async def _patch_job(self, namespace: str, job: str, patch: Manifest) -> None:
        try:
            body = await self._api.patch(JOB, namespace, job, patch)
        except Missing:
            self._forget_job(namespace, job)
        else:
            self._remember(JOB, body)

    async def delete(self, namespace: str, job: str) -> None:
        try:
            if not self._caches.jobs.get(f"{namespace}/{job}"):  # the status knows of it, the cache not yet
                self._remember(JOB, await self._api.get(JOB, namespace, job))
            entry = self._caches.jobs.get(f"{namespace}/{job}")
            if entry is None:
                return
            body = await self._api.delete(JOB, namespace, job, uid=entry.identity.uid)
        except (Missing, Conflict):
            self._forget_job(namespace, job)
        else:
            if body.get("kind") == JOB.name:
                self._remember(JOB, body)

    async def apply(self, manifest: Manifest) -> None:
        kind, meta = BY_NAME[manifest["kind"]], manifest["metadata"]
        try:
            if not self._caches.objects.get(f"{meta['namespace']}/{kind.name}/{meta['name']}"):
                await self._check_vacant(kind, meta["namespace"], meta["name"])
            self._remember(kind, await self._api.apply(kind, manifest))
        except Refused as error:
            raise Blocked(f"{kind.name}Refused", f"{kind.name} {meta['name']}: {error.message}") from error
        except Missing as error:
            if kind != HTTP_ROUTE or await self._api.serves(kind):
                raise
            remedy = "install the Gateway API, or leave out spec.serving.canary"
            raise Blocked("HTTPRouteRefused", f"the cluster has no {kind.api_version} HTTPRoute; {remedy}") from error

    async def _check_vacant(self, kind: Kind, namespace: str, name: str) -> None:
        """An object that no iteration has made is not taken over."""
        try:
            body = await self._api.get(kind, namespace, name)
        except Missing:
            return
        if owner_of(body).kind != ITERATION.name:
            what = f"{kind.name} {name} exists already and was not made for an endpoint"
            raise Blocked("NameTaken", f"{what}, so it is left alone; give spec.serving.endpoint another name")

    async def write_status(self, iteration: FeedbackIteration, status: IterationStatus) -> None:
        """Raises Conflict where there is a later version: it is read, and the iteration is to be looked at again."""
        if patch := merge_patch(_dump(iteration.status), _dump(status)):
            meta = iteration.metadata
            identity = Identity(meta.namespace, meta.name, meta.uid, int(meta.resource_version))
            await self._patch_status(identity, patch)

    async def _patch_status(self, identity: Identity, patch: Manifest) -> None:
        body = {"metadata": {"resourceVersion": str(identity.version)}, "status": patch}
        try:
            answer = await self._api.patch(ITERATION, identity.namespace, identity.name, body, "status")
        except (Conflict, Missing):
            await self._refresh_iteration(identity)
            raise
        self._tell_others(identity.key, self._caches.put(ITERATION.name, answer))

    def _tell_others(self, key: str, concerned: Iterable[str]) -> None:
        for other in concerned:
            if other != key:
                self._enqueue(other)

    def _remember(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Read your writes: what the API server answered is as good as what a watch will show later."""
        if "watch" in kind.verbs:
            self._caches.put(kind.name, body)

    def _forget_job(self, namespace: str, name: str) -> None:
        if entry := self._caches.jobs.get(f"{namespace}/{name}"):
            self._caches.drop_job(entry.identity.key, entry.identity.uid)


class _Namespace(Mapping[str, FeedbackIteration]):
    """The iterations of a namespace by name, parsed when they are looked at."""

    def __init__(self, caches: Caches, namespace: str) -> None:
        self._caches = caches
        self._namespace = namespace

    def __getitem__(self, name: str) -> FeedbackIteration:
        entry = self._caches.iterations.get(f"{self._namespace}/{name}")
        iteration = _valid(entry.value.text) if entry else None
        if iteration is None:
            raise KeyError(name)
        return iteration

    def __iter__(self) -> Iterator[str]:
        prefix = f"{self._namespace}/"
        return (key.removeprefix(prefix) for key in self._caches.iterations.all_keys() if key.startswith(prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Elsewhere(Mapping[str, tuple[Job, ...]]):
    """The Jobs of a namespace's other iterations by address, looked for when they are asked for."""

    def __init__(self, caches: Caches, iteration: FeedbackIteration) -> None:
        self._caches = caches
        self._namespace = iteration.metadata.namespace
        self._own = iteration.metadata.uid

    def __getitem__(self, address: str) -> tuple[Job, ...]:
        found = [entry for entry in self._caches.jobs_at(address) if self._is_elsewhere(entry)]
        return tuple(replace(entry.value, pods=self._pods(entry)) for entry in found)

    def __iter__(self) -> Iterator[str]:
        return iter({entry.value.address for entry in self._entries()})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _entries(self) -> Iterator[Entry[Job]]:
        return filter(self._is_elsewhere, self._caches.jobs.entries())

    def _is_elsewhere(self, entry: Entry[Job]) -> bool:
        return entry.identity.namespace == self._namespace and entry.group != self._own

    def _pods(self, entry: Entry[Job]) -> tuple[Pod, ...]:
        return pods_by_index(pod.value for pod in self._caches.pods.of(entry.identity.uid))


@lru_cache(maxsize=PARSED_ITERATIONS)
def _parse(text: bytes) -> FeedbackIteration:
    return FeedbackIteration.model_validate_json(text)


def _valid(text: bytes) -> FeedbackIteration | None:
    """An iteration that another one looks at; one that cannot be worked with is as good as none."""
    try:
        return _parse(text)
    except ValidationError:
        return None


def _status(raw: Manifest) -> IterationStatus:
    try:
        return IterationStatus.model_validate(raw)
    except ValidationError:
        return IterationStatus()


def _dump(status: IterationStatus) -> Manifest:
    """Without what is empty, which would cost the API server more than all the rest; conditions are always whole."""
    dumped = status.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    dumped["conditions"] = [condition.model_dump(mode="json", by_alias=True) for condition in status.conditions]
    return dumped


def explanation(error: ValidationError) -> str:
    """Each field that is wrong, by its name in the manifest, and why."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))


def _check_owner(body: Mapping[str, Any], manifest: Manifest) -> None:
    """A name that is taken by an object of somebody else, or of an iteration of this name that is being deleted."""
    if owner_of(body).uid == owner_of(manifest).uid:
        return
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    owner = f"{owner_of(body).kind} {owner_of(body).name}" if owner_of(body).uid else "nobody"
    raise Blocked(
        "NameTaken",
        f"{what} exists already and belongs to {owner}, not to this iteration, so it is left alone; give the iteration "
        "another name, or wait until this one is free",
    )
