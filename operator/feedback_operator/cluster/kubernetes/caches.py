"""What the watches have shown: the only place that snapshots are read from.

Every write's answer goes in, too, and an older version of an object never replaces a newer one. So the operator reads
its own writes however late the watches are: a stale cache creates nothing twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from feedback_operator.api import KIND
from feedback_operator.cluster.jobs import job_of
from feedback_operator.cluster.kubernetes.observed import (
    Body,
    Identity,
    ObservedIteration,
    ObservedPod,
    Owner,
    identity_of,
    iteration_of,
    owner_of,
    pod_of,
    whole,
)
from feedback_operator.plan.failures import is_disrupted
from feedback_operator.plan.snapshot import Job, Words
from feedback_operator.resources import ENDPOINT_LABEL, ITERATION_LABEL

Value = TypeVar("Value")

REMEMBERED: Final = 2048
"""How many uids are remembered of a kind: long enough for what is under way, short enough for months."""

NOTHING_TOLD: Final = (None, "", "", False, "")
"""Of a pod that is well."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[Value]):
    """One version of an object, and when it was heard of last, in seconds of a monotonic clock."""

    identity: Identity
    group: str
    value: Value
    heard: float


class Recent:
    """The latest uids that something was true of."""

    def __init__(self) -> None:
        self._uids: dict[str, None] = {}

    def add(self, uid: str) -> None:
        self._uids[uid] = None
        if len(self._uids) > REMEMBERED:
            del self._uids[next(iter(self._uids))]

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids


class Store(Generic[Value]):
    """Objects of one kind by `namespace/name`, and by the group that they belong to. The newest version wins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, Entry[Value]] = {}
        self._groups: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._deleted = Recent()
        """Remembered in case that the answer to an object's creation comes after its deletion."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, identity: Identity, group: str, value: Value) -> bool:
        """Take in a version of an object. False where it is no news: it is old, gone, or says what is known already."""
        known = self._entries.get(identity.key)
        if identity.uid in self._deleted or (known and known.identity.version > identity.version):
            return False
        if known and known.group != group:
            self._leave(known)
        self._entries[identity.key] = Entry(identity, group, value, self._clock())
        self._groups[group][identity.key] = None
        return known is None or known.value != value

    def drop(self, key: str, uid: str) -> bool:
        """The object is gone, for good; another one of its name is not touched."""
        self._deleted.add(uid)
        known = self._entries.get(key)
        if known is None or known.identity.uid != uid:
            return False
        del self._entries[key]
        self._leave(known)
        return True

    def get(self, key: str) -> Entry[Value] | None:
        return self._entries.get(key)

    def of(self, group: str) -> Iterator[Entry[Value]]:
        """The objects of a group."""
        return (self._entries[key] for key in self._groups.get(group, ()))

    def entries(self) -> tuple[Entry[Value], ...]:
        return tuple(self._entries.values())

    def all_keys(self) -> tuple[str, ...]:
        """`namespace/name` of all."""
        return tuple(self._entries)

    def _leave(self, entry: Entry[Value]) -> None:
        group = self._groups[entry.group]
        del group[entry.identity.key]
        if not group:
            del self._groups[entry.group]


@dataclass
class Caches:
    """All that the operator knows of its objects. Groups: of an iteration its endpoint, of a Job the iteration's uid,
    of a pod its Job's uid or its endpoint, of an endpoint's object the endpoint."""

    iterations: Store[ObservedIteration] = field(default_factory=Store)
    jobs: Store[Job] = field(default_factory=Store)
    pods: Store[ObservedPod] = field(default_factory=Store)
    objects: Store[dict[str, Any]] = field(default_factory=Store)
    pods_read: Recent = field(default_factory=Recent)
    """Jobs whose pods were read after they had ended."""
    disrupted: Recent = field(default_factory=Recent)
    """Jobs one of whose pods was taken from its node: such a pod is gone soon, long before what it did to the others
    makes the Job fail."""
    words: dict[str, Words] = field(default_factory=dict)
    """What the cluster said of Jobs that wait for their pods, by uid."""
    _children: defaultdict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    _addresses: defaultdict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))

    def put(self, kind: str, body: Body) -> tuple[str, ...]:
        """Take in a version of an object. Returns the keys of the iterations that need a look because of it."""
        identity = identity_of(body)
        match kind:
            case "FeedbackIteration":
                return self._put_iteration(identity, iteration_of(body))
            case "Job":
                return self._put_job(identity, body)
            case "Pod":
                return self._put_pod(identity, body)
            case _:
                known = Identity(identity.namespace, f"{kind}/{identity.name}", identity.uid, identity.version)
                return self._if(self.objects.put(known, _endpoint_of(body), whole(body)), *self._concerned(body))

    def drop(self, kind: str, body: Body) -> tuple[str, ...]:
        """The object is gone. Returns the keys of the iterations that need a look because of it."""
        identity = identity_of(body)
        match kind:
            case "FeedbackIteration":
                return self.drop_iteration(identity.key, identity.uid)
            case "Job":
                return self._if(self.drop_job(identity.key, identity.uid), _iteration_key(body))
            case "Pod":
                return self._if(self.pods.drop(identity.key, identity.uid), _iteration_key(body))
            case _:
                key = f"{identity.namespace}/{kind}/{identity.name}"
                return self._if(self.objects.drop(key, identity.uid), *self._concerned(body))

    def drop_iteration(self, key: str, uid: str) -> tuple[str, ...]:
        """An iteration is gone: those that follow it and those that share its endpoint need a look."""
        entry = self.iterations.get(key)
        if not self.iterations.drop(key, uid) or entry is None:
            return ()
        self._forget_child(entry)
        return (key, *self._bystanders(entry))

    def retain(self, kind: str, namespace: str, uids: Collection[str], version: int) -> int:
        """Drop what is not among all that there were of a kind at a version; how many those are. Without a namespace it
        is about all of them; what came after that version is not touched."""
        gone = [
            entry.identity
            for entry in self._entries(kind)
            if entry.identity.uid not in uids
            and entry.identity.version <= version
            and namespace in ("", entry.identity.namespace)
        ]
        for identity in gone:
            self._drop(kind, identity)
        return len(gone)

    def _entries(self, kind: str) -> Iterable[Entry[Any]]:
        match kind:
            case "FeedbackIteration":
                return self.iterations.entries()
            case "Job":
                return self.jobs.entries()
            case "Pod":
                return self.pods.entries()
            case _:
                return (one for one in self.objects.entries() if one.identity.name.startswith(f"{kind}/"))

    def _drop(self, kind: str, identity: Identity) -> None:
        match kind:
            case "FeedbackIteration":
                self.drop_iteration(identity.key, identity.uid)
            case "Job":
                self.drop_job(identity.key, identity.uid)
            case "Pod":
                self.pods.drop(identity.key, identity.uid)
            case _:
                self.objects.drop(identity.key, identity.uid)

    def children(self, parent: str) -> tuple[str, ...]:
        """Keys of the iterations that follow the iteration `parent`."""
        return tuple(self._children.get(parent, ()))

    def jobs_at(self, address: str) -> Iterator[Entry[Job]]:
        """The Jobs of all iterations that make the artifact at this address."""
        found = (self.jobs.get(key) for key in tuple(self._addresses.get(address, ())))
        return (entry for entry in found if entry and entry.value.address == address)

    def _put_job(self, identity: Identity, body: Body) -> tuple[str, ...]:
        seen, before = job_of(body), self.jobs.get(identity.key)
        news = self.jobs.put(identity, owner_of(body).uid, seen)
        if news:
            self._addresses[seen.address][identity.key] = None
        if news and before and before.value.state != seen.state:
            self.words.pop(identity.uid, None)  # said of what it waited for then
        return self._if(news, _iteration_key(body))

    def drop_job(self, key: str, uid: str) -> bool:
        """A Job is gone; whether it was known."""
        entry = self.jobs.get(key)
        if not self.jobs.drop(key, uid) or entry is None:
            return False
        self.words.pop(uid, None)
        address = entry.value.address
        self._addresses[address].pop(key, None)
        if not self._addresses[address]:
            del self._addresses[address]
        return True

    def _put_pod(self, identity: Identity, body: Body) -> tuple[str, ...]:
        """A pod that is well is no news, nor is one that ended well, as a whole, while others of its Job still run."""
        seen, before = pod_of(body), self.pods.get(identity.key)
        if is_disrupted(seen.pod):
            self.disrupted.add(owner_of(body).uid)
        if not self.pods.put(identity, _pod_group(body), seen):
            return ()
        told = before.value.told if before and before.identity.uid == identity.uid else NOTHING_TOLD
        quiet = seen.told == told or (
            seen.pod.exit_code == 0
            and not seen.pod.beside
            and told == NOTHING_TOLD
            and self._runs(identity.namespace, owner_of(body))
        )
        return self._if(not quiet, _iteration_key(body))

    def _runs(self, namespace: str, owner: Owner) -> bool:
        job = self.jobs.get(f"{namespace}/{owner.name}")
        return owner.kind == "Job" and job is not None and job.value.state == "Active"

    def _put_iteration(self, identity: Identity, seen: ObservedIteration) -> tuple[str, ...]:
        before = self.iterations.get(identity.key)
        group = f"{identity.namespace}/{seen.endpoint}" if seen.endpoint else ""
        if not self.iterations.put(identity, group, seen):
            return ()
        after = self.iterations.get(identity.key)
        if before:
            self._forget_child(before)
        if seen.parent:
            self._children[f"{identity.namespace}/{seen.parent}"][identity.key] = None
        if before and before.value.visible_hash == seen.visible_hash:
            return (identity.key,)
        others = [key for entry in (before, after) if entry for key in self._bystanders(entry)]
        return tuple(dict.fromkeys((identity.key, *others)))

    def _forget_child(self, entry: Entry[ObservedIteration]) -> None:
        parent = f"{entry.identity.namespace}/{entry.value.parent}"
        if entry.value.parent and parent in self._children:
            self._children[parent].pop(entry.identity.key, None)
            if not self._children[parent]:
                del self._children[parent]

    def _bystanders(self, entry: Entry[ObservedIteration]) -> Iterator[str]:
        """Its children in a chain, and the other iterations that name its endpoint."""
        yield from self.children(entry.identity.key)
        if entry.group:
            yield from (other.identity.key for other in self.iterations.of(entry.group))

    def _concerned(self, body: Body) -> tuple[str, ...]:
        """Whose endpoint it is; without an owner, all that name the endpoint."""
        owner = owner_of(body)
        namespace = body["metadata"].get("namespace", "")
        if owner.kind == KIND:
            return (f"{namespace}/{owner.name}",)
        return tuple(entry.identity.key for entry in self.iterations.of(_endpoint_of(body)))

    @staticmethod
    def _if(news: bool, *keys: str) -> tuple[str, ...]:
        return tuple(key for key in keys if key) if news else ()


def _iteration_key(body: Body) -> str:
    meta = body["metadata"]
    name = meta.get("labels", {}).get(ITERATION_LABEL, "")
    return f"{meta['namespace']}/{name}" if name else ""


def _endpoint_of(body: Body) -> str:
    meta = body["metadata"]
    return f"{meta['namespace']}/{meta.get('labels', {}).get(ENDPOINT_LABEL, '')}"


def _pod_group(body: Body) -> str:
    labels = body["metadata"].get("labels", {})
    return _endpoint_of(body) if ENDPOINT_LABEL in labels else owner_of(body).uid
