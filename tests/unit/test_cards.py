"""Cards of a published policy and of its pairs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from feedback_workloads.contract import Artifact
from feedback_workloads.report.cards import Made, Origin, dataset_card, model_card
from feedback_workloads.report.iteration import Iteration

from .evidences import evidence

SCORES = evidence().scores or {}
SPEC: dict[str, Any] = {
    "seed": 7,
    "instructions": {"uri": "s3://b/instructions"},
    "sampling": {"candidates": 10, "temperature": "0.7", "shards": 8, "resources": {"limits": {"nvidia.com/gpu": "1"}}},
    "training": {"beta": "0.1", "pod": {"nodeSelector": {"gpu": "h100"}}, "nodes": 2},
    "evaluation": {
        "bestOf": 8,
        "benchmarks": [{"name": "chair", "type": "coco-objects", "uri": "s3://b/c"}],
        "gate": [],
    },
}


def made(**changes: Any) -> Made:
    given: dict[str, Any] = {
        "iteration": Iteration.model_validate({"metadata": {"name": "first"}, "spec": SPEC}),
        "scores": SCORES,
        "policy": Artifact(uri="s3://b/checkpoint", sha256="a" * 64),
        "base": Origin("hf://llava-hf/llava-1.5-7b-hf", "llama2"),
        "labeler": Origin("s3://b/labeler"),
        "pairs": 545,
        "adapter": False,
        **changes,
    }
    return Made(**given)


def test_the_hub_reads_of_a_policy_what_was_measured() -> None:
    card = ModelCard(model_card(made(), "owner/aligned", "owner/aligned-pairs"))
    data = card.data.to_dict()
    assert {name: data[name] for name in ("license", "base_model", "library_name", "pipeline_tag", "datasets")} == {
        "license": "llama2",
        "base_model": "llava-hf/llava-1.5-7b-hf",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "datasets": "owner/aligned-pairs",
    }
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    figure = SCORES["aligned"]["response_hallucination"]["value"]
    assert found["response_hallucination"] == figure
    assert {one.dataset_name for one in card.data.eval_results} == {"chair"}
    assert f"{figure:.1%}" in card.text
    assert 'vllm serve "owner/aligned"' in card.text


def test_the_recipe_says_how_and_not_where() -> None:
    text = model_card(made(), "owner/aligned", "owner/aligned-pairs")
    assert yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0]) == {
        "sampling": {"candidates": 10, "temperature": "0.7"},
        "training": {"beta": "0.1"},
        "evaluation": {"bestOf": 8},
        "seed": 7,
    }


def test_a_policy_says_how_it_is_to_be_asked_where_its_files_do_not() -> None:
    said = {"systemPrompt": "Be brief.", "processorKwargs": {"max_pixels": 1003520}}
    model = {"uri": "s3://b/m", **said}
    asked = Iteration.model_validate({"metadata": {"name": "first"}, "spec": SPEC, "status": {"model": model}})
    text = model_card(made(iteration=asked), "o/m", "o/p")
    (told,) = [block for block in text.split("```") if "systemPrompt" in block]
    assert yaml.safe_load(told.removeprefix("yaml")) == {
        name: model[name] for name in ("systemPrompt", "processorKwargs")
    }
    assert "How to ask it" not in model_card(made(), "o/m", "o/p")


def test_what_was_not_measured_or_said_is_not_made_up() -> None:
    text = model_card(made(scores=None, base=Origin("s3://b/base")), "aligned", "pairs")
    data = ModelCard(text).data.to_dict()
    assert data.keys() == {"library_name", "model_name", "pipeline_tag", "tags"}
    assert "## What it does" not in text
    assert "`s3://b/base` (it says no licence)" in text


def test_an_adapter_is_loaded_onto_its_base() -> None:
    text = model_card(made(adapter=True), "owner/aligned", "owner/aligned-pairs")
    assert ModelCard(text).data.library_name == "peft"
    assert 'base = AutoModelForImageTextToText.from_pretrained("llava-hf/llava-1.5-7b-hf")' in text


@pytest.mark.parametrize("licence", ["llama2", None])
def test_pairs_are_under_the_licence_of_the_base(licence: str | None) -> None:
    card = DatasetCard(dataset_card(made(base=Origin("hf://a/b", licence)), "owner/aligned-pairs"))
    assert card.data.to_dict().get("license") == licence
    assert card.data.to_dict()["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert 'load_dataset("owner/aligned-pairs", split="train")' in card.text


def test_pairs_of_others_are_under_their_own_licence() -> None:
    """And nothing is said of a labeler, of claims or of a sampler: there were none."""
    pairs = made(published=Origin("hf://datasets/openbmb/RLAIF-V-Dataset", "cc-by-nc-4.0"), labeler=Origin("unknown"))
    card = DatasetCard(dataset_card(pairs, "owner/aligned-pairs"))
    assert card.data.to_dict()["license"] == "cc-by-nc-4.0"
    assert "545 preference pairs of `hf://datasets/openbmb/RLAIF-V-Dataset` (cc-by-nc-4.0)" in card.text
    assert 'load_dataset("owner/aligned-pairs", split="train")' in card.text
    told = card.text + model_card(pairs, "owner/aligned", "owner/aligned-pairs")
    assert "545 pairs of `hf://datasets/openbmb/RLAIF-V-Dataset` (cc-by-nc-4.0), trained on with DPO" in told
    assert not any(word in told for word in ("labelled by", "accepted or rejected", "unknown"))
