"""The API server and `feedback validate` agree on what is a valid iteration, and whatever is valid can be planned.

FEEDBACK_TEST_SPECS says how many generated specs are tried.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pytest
from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration
from feedback_operator.api.status import moment_of
from feedback_operator.plan.observe import PARENTS_SETTLE
from feedback_operator.plan.snapshot import Claimant, Endpoint, Parent
from feedback_operator.resources import Manifest, house_rules
from feedback_operator.stages import GRAPH, stages_of
from feedback_workloads.contract import Model
from tests.cluster.api import ITERATIONS, KINDS, Api, Object, Refused
from tests.cluster.control_plane import ControlPlane
from tests.cluster.world import iteration
from tests.specs import AFFINITY, spec
from tests.unit.test_pods import ALLOWED, REFUSED
from tests.unit.worlds import Simulation

SPECS: Final = int(os.environ.get("FEEDBACK_TEST_SPECS", "600"))
AT_ONCE: Final = 8
PLANNED_EVERY: Final = 10
"""Of so many accepted specs, one has its planned children tried on the API server, too."""
NAMESPACE: Final = "default"
Edit = Callable[[Object, Object | None, bool], Awaitable[None]]
DRY_RUN: Final = {"dryRun": "All", "fieldValidation": "Strict"}
MODEL: Final = Model(uri="s3://b/m")


@dataclass(frozen=True)
class Verdict:
    """What one judge says of a manifest: the object as it will be read, or the fields that are wrong."""

    accepted: FeedbackIteration | None
    fields: frozenset[str] = frozenset()
    message: str = ""


def ours(manifest: Object) -> Verdict:
    try:
        return Verdict(FeedbackIteration.model_validate(manifest, by_alias=True, by_name=False))
    except ValidationError as error:
        fields = frozenset(_path(problem["loc"]) for problem in error.errors())
        return Verdict(None, fields, str(error))


async def theirs(api: Api, manifest: Object) -> Verdict:
    try:
        created = await api.create(ITERATIONS, NAMESPACE, manifest, query=DRY_RUN)
    except Refused as refused:
        return Verdict(None, frozenset(_fields_named(refused)), str(refused))
    return Verdict(FeedbackIteration.model_validate(created))


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _fields_named(refused: Refused) -> Iterator[str]:
    """Paths of fields in the causes of a refusal, or in the text where a field is unknown."""
    yield from (cause["field"] for cause in refused.causes if "field" in cause)
    yield from re.findall(r'unknown field "([^"]+)"', str(refused))


def _one_within_the_other(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


async def _judge(api: Api, seed: int, counts: Counter[str]) -> None:
    """Count what became of the spec of one seed; fails where the judges differ."""
    manifest = {**iteration("generated"), "spec": spec(seed)}
    mine, server = ours(manifest), await theirs(api, manifest)
    told = f"seed {seed}\nAPI server: {server.message or 'accepted'}\npydantic: {mine.message or 'accepted'}"
    assert (mine.accepted is None) == (server.accepted is None), told
    if mine.accepted is None or server.accepted is None:
        assert any(_one_within_the_other(a, b) for a in mine.fields for b in server.fields), told
        counts["refused"] += 1
        return
    assert mine.accepted.spec == server.accepted.spec, f"seed {seed}: the defaults differ"
    made = _whole_life(server.accepted)
    if seed % PLANNED_EVERY == 0 and _pods_are_possible(server.accepted):
        for child in made:
            await api.create(KINDS[child["kind"]], NAMESPACE, child, query=DRY_RUN)
            counts[f"{child['kind']} accepted"] += 1
    counts["planned"] += 1


def _pods_are_possible(accepted: FeedbackIteration) -> bool:
    """Whether no affinity is odd: what is in one, the API server checks when the pod is made, and not before."""
    spec = accepted.spec
    sections = [*(spec.section(stage.name) for stage in stages_of(spec)), spec.serving]
    return all(section.pod.affinity in ({}, AFFINITY) for section in sections if section)


def _whole_life(accepted: FeedbackIteration) -> list[Manifest]:
    """Everything that is planned for an iteration whose Jobs all end well and which is not suspended."""
    spec = accepted.spec
    awake = accepted.model_copy(update={"spec": spec.model_copy(update={"suspend": False})})
    parent = Parent(spec.model.from_.iteration, model=MODEL) if spec.model.from_ else None
    endpoint, now = _endpoint(accepted), _settled(accepted)
    world = Simulation(awake, parent=parent, endpoint=endpoint, now=now, house=house_rules.LENIENT)
    made: list[Manifest] = []
    for _ in range(len(GRAPH) + 1):
        decided = world.step()
        made += [*decided.create, *decided.apply]
        for job in world.active():
            world.complete(job)
    assert set(world.states().values()) == {"Done"}, world.states()
    return made


def _settled(accepted: FeedbackIteration) -> datetime:
    """When its parent, which may have come with it, is taken for what it is."""
    created = moment_of(accepted.metadata.creation_timestamp)
    assert created
    return created + PARENTS_SETTLE


def _endpoint(accepted: FeedbackIteration) -> Endpoint | None:
    """The endpoint that it names, with nobody else there."""
    meta, serving = accepted.metadata, accepted.spec.serving
    if serving is None or serving.endpoint is None:
        return None
    return Endpoint(claimants=(Claimant(meta.name, meta.uid, meta.creation_timestamp, yields=False),), objects=())


@pytest.mark.timeout(3600)
async def test_generated_specs(control_plane: ControlPlane) -> None:
    counts: Counter[str] = Counter()
    async with Api.connect(control_plane.kubeconfig) as api:
        seeds = iter(range(SPECS))

        async def work() -> None:
            for seed in seeds:
                await _judge(api, seed, counts)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    print(f"{SPECS} specs: {dict(counts)}")
    assert min(counts["refused"], counts["planned"]) > SPECS / 5, "the generator makes too few of one kind"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        pytest.param({"model": {"from": {"iteration": "a"}}}, "spec.model", "exactly one of uri and from", id="model"),
        pytest.param({"training": {"nodes": 3}}, "spec.training", "globalBatchSize must be a multiple of", id="batch"),
        pytest.param({"sampling": {"temperature": "2.1"}}, "spec.sampling.temperature", "between 0 and 2", id="range"),
        pytest.param(
            {"sampling": {"temperature": 1}}, "spec.sampling.temperature", "must be of type string", id="type"
        ),
        pytest.param({"splitting": {"type": "LLM"}}, "spec.splitting", "llm must be given", id="llm"),
        pytest.param(
            {"pairs": {"source": {"uri": "s3://b/pairs"}}},
            "spec",
            "give exactly one of pairs and labeling: pairs that are made need no labeling",
            id="pairs beside a labeler",
        ),
        pytest.param(
            {"training": {"loss": {"terms": [{"type": "SFT"}]}}},
            "spec.training.loss",
            "terms must have one that compares the answers of a pair",
            id="loss",
        ),
        pytest.param(
            {"training": {"loss": {"terms": [{"type": "Sigmoid"}, {"type": "IPO"}]}}},
            "spec.training.loss",
            "beside them, terms must have none but SFT",
            id="two meanings of beta",
        ),
        pytest.param(
            {"sampling": {"resources": {"limits": {"nvidia.com/gpu": "500m"}}}},
            "spec.sampling.resources.limits",
            "whole numbers",
            id="half a device",
        ),
        pytest.param(
            {"evaluation": {"gate": [{"metric": "recall", "min": "0.9", "max": "0.8"}]}},
            "spec.evaluation.gate[0]",
            "min must not be greater than max",
            id="gate",
        ),
        pytest.param(
            {"evaluation": {"gate": [{"metric": "recall", "use": "Interval", "min": "0.9"}]}},
            "spec.evaluation.gate[0]",
            "needs relativeTo Baseline",
            id="interval of a value",
        ),
        pytest.param(
            {"evaluation": {"gate": [{"metric": "recall", "benchmark": "other", "min": "0.9"}]}},
            "spec.evaluation",
            "gate must name one of evaluation.benchmarks",
            id="a gate of no benchmark",
        ),
        pytest.param(
            {"evaluation": {"gate": [{"metric": "accuracy", "min": "0.9"}]}},
            "spec.evaluation",
            "gate must name a metric that its benchmark measures: accuracy is of pope, amber and mmstar",
            id="a gate of what is not measured",
        ),
        pytest.param(
            {"evaluation": {"choice": {"benchmark": "other"}}},
            "spec.evaluation",
            "choice must name one of evaluation.benchmarks",
            id="a choice of no benchmark",
        ),
        pytest.param(
            {"evaluation": {"choice": {"metric": "f1"}}},
            "spec.evaluation",
            "choice must name a metric that its benchmark measures",
            id="a choice by what is not measured",
        ),
        pytest.param(
            {"only": "Evaluation"},
            "spec",
            "with only Evaluation nothing is trained",
            id="evaluation alone and a labeler",
        ),
        pytest.param(
            {"labeling": {"model": {"uri": "hf://a/b", "revision": "main", "trustRemoteCode": True}}},
            "spec.labeling.model",
            "trustRemoteCode runs what lies beside the weights",
            id="code that moves",
        ),
        pytest.param({"sampling": {"candidate": 3}}, "spec.sampling.candidate", "unknown field", id="typo"),
    ],
)
async def test_a_refusal_names_the_field(
    control_plane: ControlPlane, changes: dict[str, Any], field: str, message: str
) -> None:
    async with Api.connect(control_plane.kubeconfig) as api:
        with pytest.raises(Refused) as refused:
            await api.create(ITERATIONS, NAMESPACE, iteration("wrong", **changes), query=DRY_RUN)
    assert field in str(refused.value)
    assert message in str(refused.value)


async def test_what_pods_must_not_be_given_is_refused_by_its_path(control_plane: ControlPlane) -> None:
    async with Api.connect(control_plane.kubeconfig) as api:
        for title, (pod, path, words) in REFUSED.items():
            verdict = await theirs(api, iteration("wrong", sampling={"pod": pod}))
            assert verdict.accepted is None, title
            assert any(_one_within_the_other(f"spec.sampling.pod{path}", field) for field in verdict.fields), title
            assert words in verdict.message, f"{title}: {verdict.message}"


async def test_what_pods_may_be_given_is_taken_and_makes_pods(control_plane: ControlPlane) -> None:
    async with Api.connect(control_plane.kubeconfig) as api:
        stages = {stage.name: {"pod": ALLOWED} for stage in GRAPH}
        verdict = await theirs(api, iteration("right", **stages, serving={"endpoint": "right", "pod": ALLOWED}))
        assert verdict.accepted, verdict.message
        for child in _whole_life(verdict.accepted):
            await api.create(KINDS[child["kind"]], NAMESPACE, child, query=DRY_RUN)


@pytest.mark.parametrize("name", ["a" * 37, "1st", "with.dot", "-a"])
async def test_a_name_that_jobs_could_not_bear_is_refused(control_plane: ControlPlane, name: str) -> None:
    async with Api.connect(control_plane.kubeconfig) as api:
        with pytest.raises(Refused, match=r"metadata\.name"):
            await api.create(ITERATIONS, NAMESPACE, iteration(name), query=DRY_RUN)


AT_WORK: Final = {
    "conditions": [{"type": "Reconciling", "status": "True", "reason": "StageRunning"}],
    "stages": [{"name": "sampling", "state": "Running"}],
}
AT_ITS_END: Final = {**AT_WORK, "conditions": [{"type": "Reconciling", "status": "False", "reason": "Complete"}]}
WAITS: Final = {**AT_WORK, "stages": [{"name": "sampling", "state": "Waiting"}]}


@pytest.fixture
async def edit(control_plane: ControlPlane) -> AsyncIterator[Edit]:
    """Changes the spec of an iteration that has this status."""
    async with Api.connect(control_plane.kubeconfig) as api:

        async def act(change: Object, status: Object | None, suspended: bool) -> None:
            await api.create(ITERATIONS, NAMESPACE, iteration("edited", suspend=suspended))
            if status:
                await api.patch(ITERATIONS, NAMESPACE, "edited", {"status": status}, subresource="status")
            await api.patch(ITERATIONS, NAMESPACE, "edited", {"spec": change})

        yield act
        await api.delete(ITERATIONS, NAMESPACE, "edited")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"sampling": {"candidates": 3}}, "spec.sampling.candidates", id="number"),
        pytest.param({"labeling": {"model": {"uri": "s3://b/c"}}}, "spec.labeling.model", id="section"),
        pytest.param({"model": {"processorKwargs": {"size": {"longest_edge": 8}}}}, "spec.model", id="JSON"),
        pytest.param({"training": {"lora": {"rank": 8}}}, "spec.training.lora", id="optional section"),
        pytest.param({"pairing": {"truth": "shapes"}}, "spec.pairing.truth", id="optional text"),
        pytest.param({"artifacts": {"uri": "s3://elsewhere"}}, "spec.artifacts", id="place"),
    ],
)
async def test_what_determines_artifacts_cannot_change_at_work(edit: Edit, change: Object, field: str) -> None:
    with pytest.raises(Refused, match=f"{field} decides what is computed and cannot change while") as refused:
        await edit(change, AT_WORK, False)
    assert [cause["field"] for cause in refused.value.causes] == [field]


@pytest.mark.parametrize(
    ("change", "status", "suspended"),
    [
        pytest.param({"sampling": {"candidates": 3}}, AT_WORK, True, id="suspended"),
        pytest.param({"sampling": {"candidates": 3}}, AT_ITS_END, False, id="at its end"),
        pytest.param({"model": {"uri": "s3://b/c"}}, WAITS, False, id="nothing begun"),
        pytest.param({"model": {"uri": "s3://b/c"}}, None, False, id="not seen yet"),
        pytest.param({"sampling": {"resources": {"limits": {"memory": "8Gi"}}}}, AT_WORK, False, id="resources"),
        pytest.param({"sampling": {"pod": {"image": "other:1"}}}, AT_WORK, False, id="image"),
        pytest.param({"serving": {"endpoint": "e", "replicas": 3}}, AT_WORK, False, id="serving"),
        pytest.param({"evaluation": {"gate": []}}, AT_WORK, False, id="gate"),
        pytest.param({"suspend": True}, AT_WORK, False, id="suspend"),
        pytest.param({"deadlineSeconds": 60, "ttlSecondsAfterFinished": 0}, AT_WORK, False, id="times"),
        pytest.param({"training": {"nodes": 2}}, AT_WORK, False, id="nodes"),
    ],
)
async def test_all_else_can_change(edit: Edit, change: Object, status: Object | None, suspended: bool) -> None:
    await edit(change, status, suspended)


BEHIND_APIS: Final = {
    "labeling": {"type": "API", "model": None, "api": {"url": "https://b/v1", "model": "sees"}},
    "splitting": {"type": "LLM", "llm": {"api": {"url": "https://b/v1", "model": "writes"}}},
}


async def test_how_an_api_is_asked_can_change_at_work_and_which_it_is_cannot(control_plane: ControlPlane) -> None:
    async with Api.connect(control_plane.kubeconfig) as api:
        await api.create(ITERATIONS, NAMESPACE, iteration("asking", **BEHIND_APIS))
        try:
            await api.patch(ITERATIONS, NAMESPACE, "asking", {"status": AT_WORK}, subresource="status")
            for limits in ({"limits": {"tokens": 5}, "concurrency": 2}, {"limits": None}):
                change = {"labeling": {"api": limits}, "splitting": {"llm": {"api": limits}}}
                await api.patch(ITERATIONS, NAMESPACE, "asking", {"spec": change})
            for field, change in (
                ("spec.labeling.api.url", {"labeling": {"api": {"url": "https://c/v1"}}}),
                ("spec.splitting.llm.api.model", {"splitting": {"llm": {"api": {"model": "other"}}}}),
            ):
                with pytest.raises(Refused) as refused:
                    await api.patch(ITERATIONS, NAMESPACE, "asking", {"spec": change})
                assert [cause["field"] for cause in refused.value.causes] == [field]
        finally:
            await api.delete(ITERATIONS, NAMESPACE, "asking")
