"""Configurations of stages, as they follow from a spec."""

from __future__ import annotations

import pytest

from feedback_operator.api import model_of
from feedback_operator.cluster.local.cluster import local_variables
from feedback_operator.stages import GRAPH, STAGES, Inputs, Stage, gpus
from feedback_workloads.contract import (
    Artifact,
    EngineConfig,
    LoRA,
    Model,
    SamplingConfig,
    Source,
    StageConfig,
    TrainedOn,
    TrainingConfig,
)
from tests.unit.worlds import Simulation, iteration, manifest

SECTIONS = (*STAGES, "serving")
OURS = {section: {"resources": {"limits": {"nvidia.com/gpu": number}}} for number, section in enumerate(SECTIONS, 2)}
"""Sections whose pods all have another number of GPUs."""


def config_of(stage: Stage, **sections: object) -> StageConfig:
    """What a stage is given in an iteration with these sections."""
    given = {name: (Artifact(uri=f"s3://b/{name}", sha256="a" * 64),) for name in STAGES}
    return stage.addressed_config(Inputs(iteration(**sections).spec, Source(uri="s3://b/policy"), given))


def engine_of(stage: Stage, **sections: object) -> EngineConfig | None:
    return getattr(config_of(stage, **sections), "engine", None)


@pytest.mark.parametrize("stage", GRAPH, ids=lambda stage: stage.name)
def test_no_engine_asks_for_the_gpus_of_another_stages_pods(stage: Stage) -> None:
    given = manifest()["spec"]
    sections = {name: {**given.get(name, {}), **section} for name, section in OURS.items()}
    engine = engine_of(stage, **sections)
    assert (engine is None) == (stage.image == "train")
    if engine:
        assert engine.tensor_parallel_size == gpus(iteration(**sections).spec.section(stage.name))


CLAIM = {"name": "gpus", "resourceClaimTemplateName": "two-gpus", "devices": 2}


@pytest.mark.parametrize(
    ("resources", "number"),
    [
        pytest.param({}, 1, id="none"),
        pytest.param({"limits": {"nvidia.com/gpu": "2"}}, 2, id="NVIDIA"),
        pytest.param({"limits": {"amd.com/gpu": "4"}}, 4, id="AMD"),
        pytest.param({"limits": {"gpu.intel.com/xe": "2"}}, 2, id="Intel"),
        pytest.param({"limits": {"nvidia.com/mig-3g.40gb": "2"}}, 2, id="MIG"),
        pytest.param({"limits": {"nvidia.com/gpu.shared": "1"}}, 1, id="shared"),
        pytest.param({"limits": {"nvidia.com/gpu": "2", "rdma/hca": "8"}}, 2, id="a network card is no GPU"),
        pytest.param({"claims": [CLAIM]}, 2, id="a claim"),
        pytest.param({"claims": [CLAIM, {**CLAIM, "name": "more", "devices": 6}]}, 8, id="two claims"),
    ],
)
def test_the_policy_is_split_over_the_gpus_of_its_pods_whoever_makes_them(
    resources: dict[str, object], number: int
) -> None:
    given = {"evaluation": {**manifest()["spec"]["evaluation"], "resources": resources}}
    engine = engine_of(STAGES["evaluation"], **given)
    assert engine
    assert engine.tensor_parallel_size == number
    assert engine_of(STAGES["sampling"], **given) == EngineConfig(), "the GPUs of evaluation are not those of sampling"


API = {"url": "https://api.example/v1/", "model": "sees", "keySecretRef": {"name": "keys", "key": "labeler"}}
BEHIND_AN_API = {"type": "API", "api": API}
SPLIT_BEHIND_AN_API = {"type": "LLM", "llm": {"api": {**API, "keySecretRef": {"name": "keys", "key": "splitter"}}}}
BY_A_MODEL = {"type": "LLM", "llm": {"model": {"uri": "s3://b/text"}}}
EVERYTHING = {
    "limits": {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1", "rdma/hca": "1"},
    "requests": {"cpu": "1"},
    "claims": [CLAIM],
}


@pytest.mark.parametrize(
    ("stage", "section", "devices"),
    [
        pytest.param("sampling", {}, True, id="sampling"),
        pytest.param("splitting", {}, False, id="splitting into sentences"),
        pytest.param("splitting", {"type": "WholeAnswer"}, False, id="whole answers"),
        pytest.param("splitting", BY_A_MODEL, True, id="splitting by a model"),
        pytest.param("splitting", SPLIT_BEHIND_AN_API, False, id="splitting behind an API"),
        pytest.param("labeling", {"model": {"uri": "s3://b/labeler"}}, True, id="labeling"),
        pytest.param("labeling", BEHIND_AN_API, False, id="labeling behind an API"),
        pytest.param("pairing", {}, False, id="pairing"),
        pytest.param("training", {}, True, id="training"),
    ],
)
def test_pods_that_run_no_model_take_no_gpu(stage: str, section: dict[str, object], devices: bool) -> None:
    simulation = Simulation.of(**{stage: {**section, "resources": EVERYTHING}})
    simulation.run_until(stage)
    simulation.jobs.clear()
    (job,) = (made for made in simulation.step().create if made["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    plain = {"limits": {"cpu": "2", "memory": "8Gi"}, "requests": {"cpu": "1"}}
    assert container["resources"] == ({**EVERYTHING, "claims": [{"name": "gpus"}]} if devices else plain)
    assert pod.get("resourceClaims") == (
        [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}] if devices else None
    )


def test_pods_that_ask_an_api_get_its_key_from_the_secret() -> None:
    """Those of sampling, which look whether APIs answer, get both; the operator reads none."""
    simulation = Simulation.of(splitting=SPLIT_BEHIND_AN_API, labeling=BEHIND_AN_API)
    found = {}
    for stage in ("sampling", "splitting", "labeling", "pairing"):
        simulation.run_until(stage)
        simulation.jobs.clear()
        (job,) = (made for made in simulation.step().create if made["kind"] == "Job")
        container = job["spec"]["template"]["spec"]["containers"][0]
        keys = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
        found[stage] = keys
        assert keys.keys().isdisjoint(one["name"] for one in local_variables(container)), "here they are a person's own"
    labeler, splitter = ({"name": "keys", "key": key} for key in ("labeler", "splitter"))
    assert found == {
        "sampling": {"SPLITTING_API_KEY": splitter, "LABELING_API_KEY": labeler},
        "splitting": {"SPLITTING_API_KEY": splitter},
        "labeling": {"LABELING_API_KEY": labeler},
        "pairing": {},
    }


def test_what_is_said_of_apis_reaches_the_stages_that_ask_them() -> None:
    asked = {
        **API, "parameters": {"reasoning_effort": "low", "top_k": 8.0}, "concurrency": 3, "retries": 1,
        "requestTimeoutSeconds": 9, "price": {"input": "2.5"}, "limits": {"tokens": 1000, "cost": "0.5"},
    }  # fmt: skip
    labeling = {"type": "API", "api": {**asked, "votes": {"number": 3}, "maxPictureSide": 512}}
    sections = {"labeling": labeling, "splitting": {"type": "LLM", "llm": {"api": asked}}}
    sampling, splitting, labels = (
        config_of(STAGES[name], **sections) for name in ("sampling", "splitting", "labeling")
    )
    said = {"url": "https://api.example/v1", "model": "sees", "parameters": {"reasoning_effort": "low", "top_k": 8}}
    votes = {"number": 3, "temperature": 1.0, "max_new_tokens": 16}
    labeler = {**said, "votes": votes, "max_picture_side": 512}
    requests = {
        "concurrency": 3, "retries": 1, "timeout_seconds": 9, "price": {"input": 2.5, "output": 0.0},
        "max_tokens": 1000, "max_cost": 0.5,
    }  # fmt: skip
    assert labels.model_dump()["api"] == sampling.model_dump()["labeler_api"] == labeler
    assert splitting.model_dump()["splitter"]["api"] == sampling.model_dump()["splitter_api"] == said
    assert labels.model_dump()["requests"] == splitting.model_dump()["requests"] == requests
    assert "model" not in labels.content()
    assert sampling.model_dump()["later_models"] == ()


def test_a_policy_that_labels_is_the_one_that_was_sampled_from() -> None:
    """It has the addresses that naming it twice has; in a chain it is that of the iteration."""
    own, named = ({"labeling": {"model": model}} for model in ({"from": "Policy"}, {"uri": "s3://b/policy"}))
    assert {stage.name: config_of(stage, **own).content_hash() for stage in GRAPH} == {
        stage.name: config_of(stage, **named).content_hash() for stage in GRAPH
    }
    given = {name: (Artifact(uri=f"s3://b/{name}", sha256="a" * 64),) for name in STAGES}
    promoted = Model(uri="s3://b/artifacts/training/x/checkpoint-000010", sha256="b" * 64)
    spec = iteration(model={"from": {"iteration": "parent"}}, **own).spec
    labels, sampling = (STAGES[name].config(Inputs(spec, promoted, given)) for name in ("labeling", "sampling"))
    assert Model.model_validate(labels.model_dump()["model"]) == promoted
    assert [later["source"] for later in sampling.model_dump()["later_models"]] == [promoted.model_dump()]


@pytest.mark.parametrize(
    ("labeling", "message"),
    [
        ({"model": {}}, "give exactly one of uri and from"),
        ({"model": {"uri": "s3://b/m", "from": "Policy"}}, "give exactly one of uri and from"),
        ({"model": {"from": "Policy", "systemPrompt": "Be brief."}}, "from must be alone"),
        ({"model": {"from": "Policy", "trustRemoteCode": True}}, "trustRemoteCode runs what lies beside the weights"),
        ({"type": "API"}, "api must be given for type API"),
        ({"type": "API", "api": API, "model": {"uri": "s3://b/m"}}, "model must be given for type Model"),
        ({"api": API}, "model must be given for type Model"),
        ({"type": "API", "api": {**API, "limits": {"cost": "5"}}}, "limits.cost needs price"),
    ],
)
def test_who_labels_is_said_once(labeling: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iteration(labeling=labeling)


def test_a_model_has_one_context_length_wherever_it_answers() -> None:
    labeling = {**manifest()["spec"]["labeling"], "maxModelLen": 8192}
    sections = {"sampling": {"maxModelLen": 4096}, "splitting": {"maxModelLen": 2048}, "labeling": labeling}
    lengths = {name: engine.max_model_len for name, stage in STAGES.items() if (engine := engine_of(stage, **sections))}
    assert lengths == {"sampling": 4096, "splitting": 2048, "labeling": 8192, "evaluation": 4096}


def test_answers_to_other_prompts_are_scored_again_before_they_train() -> None:
    """Their log-probabilities under those prompts are not those under the instruction."""
    plain, styles = (
        config_of(STAGES["training"], sampling=sampling) for sampling in ({}, {"prompts": ["Name it.", "Say more."]})
    )
    assert isinstance(plain, TrainingConfig)
    assert isinstance(styles, TrainingConfig)
    assert (plain.reference, plain.parity_rows) == ("sampled", 16)
    assert (styles.reference, styles.parity_rows) == ("recomputed", 0)


# ── what is said of models ───────────────────────────────────────────────────────────────────────────────────────────

ASKED = {"systemPrompt": "Be brief.", "chatTemplate": "{{ messages }}", "processorKwargs": {"max_pixels": 8.0}}
PINNED = {"sha256": "a" * 64, "trustRemoteCode": True, "quantization": "FP8"}
SAID = {"system_prompt": "Be brief.", "chat_template": "{{ messages }}"}
ANYHOW = {"sha256": "a" * 64, "trust_remote_code": True, "quantization": "fp8"}


def test_what_is_said_of_a_model_reaches_every_stage_that_uses_it() -> None:
    splitter = {name: value for name, value in ASKED.items() if name != "processorKwargs"}
    spec = iteration(
        model={"uri": "s3://b/policy", **ASKED},
        labeling={"model": {"uri": "s3://b/labeler", **ASKED, **PINNED}},
        splitting={"type": "LLM", "llm": {"model": {"uri": "s3://b/text", **splitter, **PINNED}}},
    ).spec
    given = {name: (Artifact(uri=f"s3://b/{name}", sha256="a" * 64),) for name in STAGES}
    configs = {stage.name: stage.config(Inputs(spec, model_of(spec.model), given)).model_dump() for stage in GRAPH}
    policy = Model(uri="s3://b/policy", **SAID, processor_kwargs={"max_pixels": 8})
    labeler = Model(uri="s3://b/labeler", **SAID, processor_kwargs={"max_pixels": 8}, **ANYHOW)
    text = Model(uri="s3://b/text", **SAID, **ANYHOW)
    assert [configs[name]["model"] for name in ("sampling", "training", "evaluation")] == 3 * [policy.model_dump()]
    assert configs["labeling"]["model"] == labeler.model_dump()
    assert configs["splitting"]["splitter"]["model"] == text.model_dump()
    assert [later["source"] for later in configs["sampling"]["later_models"]] == [
        labeler.model_dump(), text.model_dump(),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labeling", "training", "expect"),
    [
        pytest.param({}, {}, (EngineConfig(), TrainedOn()), id="no devices anywhere, as on one machine"),
        pytest.param(
            {"resources": {"limits": {"nvidia.com/gpu": 4}}},
            {"resources": {"limits": {"nvidia.com/gpu": 8}}, "processesPerNode": 8, "zeroStage": 3},
            (EngineConfig(tensor_parallel_size=4), TrainedOn(processes=8, zero_stage=3)),
            id="more of the same",
        ),
        pytest.param(
            {"resources": {"limits": {"nvidia.com/gpu": 1}}, "pod": {"nodeSelector": {"card": "large"}}},
            {"resources": {"limits": {"amd.com/gpu": 1}}},
            (None, None),
            id="on other nodes, and of another make",
        ),
    ],
)
def test_the_first_stage_is_told_which_stages_have_cards_of_its_kind(
    labeling: dict[str, object], training: dict[str, object], expect: tuple[EngineConfig | None, TrainedOn | None]
) -> None:
    given = manifest()["spec"]
    of_sampling = {"resources": {"limits": {"nvidia.com/gpu": 1}}} if labeling else {}
    config = config_of(
        GRAPH[0],
        sampling={**given.get("sampling", {}), **of_sampling},
        labeling={**given["labeling"], **labeling},
        training={**given.get("training", {}), **training},
    )
    assert isinstance(config, SamplingConfig)
    (labeler,) = config.later_models
    assert (labeler.engine, config.trained_on) == expect


def test_an_adapter_over_rounded_weights_is_another_one() -> None:
    """Training is told, and the first stage, which counts what a card has to hold; nothing that is sampled changes."""
    plain, rounded = (
        {stage.name: config_of(stage, training={"lora": lora}) for stage in GRAPH}
        for lora in ({}, {"quantization": "NF4"})
    )
    assert isinstance(rounded["sampling"], SamplingConfig)
    assert rounded["sampling"].trained_on == TrainedOn(quantization="nf4")
    assert isinstance(rounded["training"], TrainingConfig)
    assert rounded["training"].lora == LoRA(quantization="nf4")
    assert "quantization" not in plain["training"].content()["lora"]
    differ = {name for name in plain if plain[name].content_hash() != rounded[name].content_hash()}
    assert differ == {"training"}


def test_rounded_weights_are_not_divided() -> None:
    with pytest.raises(ValueError, match=r"lora\.quantization needs zeroStage 2 or 0: ZeRO-3 cannot divide rounded"):
        iteration(training={"lora": {"quantization": "NF4"}, "zeroStage": 3})


ADDRESSES = {
    "sampling": "a1827602132afa512a945496307ad795b6a1dfd727256f895753e84a2fb51257",
    "splitting": "d49c1a5c41cc3e5cde8ef28c51e4488cf8612aab8215b3b2bfdb7757f9ee6eff",
    "labeling": "1a22dc78ab019a1e83c086c9f20525f9deb85d52ba5de00eca38a43485f38fc0",
    "pairing": "8f98d400735f79d6938df2a9abb4f2162d9aacdc768d38c352966530d1e58f25",
    "training": "44d4c3bfe67845c89c79222705538d682dd3afcee115c359ee39773bb4d465c5",
    "evaluation": "9031030a23b039965785b07a83dbdc79dd2e8bf4869db2681ff4e44a9ece9121",
}
"""Of a manifest of before anything could be said of a model."""


def test_a_manifest_that_says_nothing_keeps_its_addresses() -> None:
    sections = {"splitting": {"type": "LLM", "llm": {"model": {"uri": "s3://b/text"}}}}
    assert {stage.name: config_of(stage, **sections).content_hash() for stage in GRAPH} == ADDRESSES
