"""From `kubectl apply` to an aligned policy behind an endpoint."""

from __future__ import annotations

from tests.cluster.api import BUDGETS, DEPLOYMENTS, JOBS, NETWORK_POLICIES, SERVICES, Object
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import BEST_OF, GOOD_SCORES
from tests.cluster.world import READY, STAGES, Expected, World, condition_of, iteration, stage_is, stage_of


async def test_an_iteration_runs_all_stages_and_is_promoted(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo"))
    done = await world.until("demo", READY)

    assert await world.stages_run("demo") == list(STAGES)
    assert condition_of(done, "Promoted")["status"] == "True"
    assert condition_of(done, "Stalled")["status"] == "False"
    assert condition_of(done, "Reconciling")["status"] == "False"
    assert done["status"]["aligned"]["uri"].endswith("/checkpoints/last")
    metrics = stage_of(done, "evaluation")["shards"][0]["metrics"]
    assert {name: float(text) for name, text in metrics.items()} == GOOD_SCORES


async def test_its_endpoint_is_rolled_out_once_it_is_promoted(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo", serving={"endpoint": "answers", "replicas": 2}))
    await world.until("demo", stage_is("training", "Done"))
    assert await world.api.list(DEPLOYMENTS, world.namespace) == []
    done = await world.until("demo", READY)

    assert condition_of(done, "Serving")["status"] == "True"
    deployment = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
    assert deployment["status"]["readyReplicas"] == 2
    assert done["status"]["promoted"]["bestOf"] == BEST_OF
    assert done["status"]["promoted"]["ranking"] == {"rule": "Regularised", "lambda": "0.3"}
    assert f"--best-of={BEST_OF}" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    for kind in (SERVICES, BUDGETS, NETWORK_POLICIES):
        assert "answers" in [item["metadata"]["name"] for item in await world.api.list(kind, world.namespace)]


async def test_shards_and_training_nodes_are_pods_of_one_job(world: World, operator: OperatorProcess) -> None:
    await world.apply(
        iteration(
            "wide",
            sampling={"shards": 3},
            splitting={"shards": 2},
            labeling={"shards": 2},
            training={"nodes": 2, "globalBatchSize": 8},
        )
    )
    done = await world.until("wide", READY)

    assert len(stage_of(done, "sampling")["shards"]) == 3
    assert len(stage_of(done, "labeling")["shards"]) == 2
    assert len(stage_of(done, "training")["shards"]) == 1
    wanted = {"sampling": 3, "splitting": 2, "labeling": 2, "pairing": 1, "training": 2, "evaluation": 1}
    jobs = await world.jobs("wide")
    found = {job["metadata"]["labels"]["feedback.rlaif.dev/stage"]: name for name, job in jobs.items()}
    assert found.keys() == wanted.keys()
    for stage, pods in wanted.items():  # results are in before the Job controller has counted their pods
        await world.api.wait(JOBS, world.namespace, found[stage], succeeded(pods))
    service = next(
        item for item in await world.api.list(SERVICES, world.namespace) if item["spec"]["clusterIP"] == "None"
    )
    training_job = stage_of(done, "training")["job"]
    assert service["metadata"]["name"] == training_job
    assert (await world.jobs())[training_job]["spec"]["template"]["spec"]["subdomain"] == training_job


def succeeded(pods: int) -> Expected:
    """So many pods of a Job have ended well."""

    def holds(job: Object) -> bool:
        return bool(job.get("status", {}).get("succeeded") == pods)

    return holds


async def test_progress_of_a_running_stage_shows_in_the_status(world: World, operator: OperatorProcess) -> None:
    sampling = world.script.hold("sampling", units=(30, 100))
    await world.apply(iteration("demo"))
    await world.until("demo", lambda item: stage_of(item, "sampling").get("done") == 30)
    sampling.units = (60, 100)
    shown = await world.until("demo", lambda item: stage_of(item, "sampling").get("done") == 60)
    assert stage_of(shown, "sampling")["total"] == 100
    sampling.release()
    await world.until("demo", stage_is("sampling", "Done"))


async def test_all_conditions_are_there_from_the_first_visit(world: World, operator: OperatorProcess) -> None:
    world.script.hold("sampling")
    await world.apply(iteration("demo"))
    seen = await world.until("demo", lambda item: bool(item.get("status", {}).get("conditions")))
    kinds = {condition["type"] for condition in seen["status"]["conditions"]}
    assert kinds >= {"Ready", "Reconciling", "Stalled", "Promoted"}
    assert condition_of(seen, "Reconciling")["status"] == "True"


async def test_jobs_and_configurations_belong_to_the_iteration(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo"))
    done = await world.until("demo", READY)
    children = [*(await world.jobs("demo")).values(), *await world.config_maps("demo")]
    assert len(children) >= 2 * len(STAGES)
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (done["metadata"]["uid"], True)


async def test_an_iteration_that_is_done_is_left_alone_by_a_new_operator(world: World) -> None:
    with world.operator():
        await world.apply(iteration("demo"))
        done = await world.until("demo", READY)
    probe = iteration("probe")
    with world.operator():
        await world.apply(probe)
        await world.until("probe", READY)
    again = await world.look("demo")
    assert again["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"]
    assert await world.stages_run("demo") == list(STAGES)
