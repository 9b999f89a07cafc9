"""What a published policy and its pairs say of themselves: cards as the Hugging Face hub reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from feedback_workloads.contract import Artifact
from feedback_workloads.report.iteration import Iteration
from feedback_workloads.report.summary import MEASURES, cell, columns, drawn, measured

TASK: Final = "image-text-to-text"
PAPER: Final = "[RLAIF-V](https://arxiv.org/abs/2405.17220)"
RECIPE: Final = ("sampling", "splitting", "labeling", "pairing", "training", "evaluation")
"""Sections of the spec that say how the policy was made; the other keys of them say where."""
ELSEWHERE: Final = frozenset({"resources", "pod", "shards", "gate", "benchmarks", "nodes", "processesPerNode"})


@dataclass(frozen=True)
class Origin:
    """A model or data set that something was made from: where it is, and its licence where it says one."""

    uri: str
    licence: str | None = None

    @property
    def on_hub(self) -> str | None:
        """Its name on the hub, if it is there."""
        return self.uri.removeprefix("hf://") if self.uri.startswith("hf://") else None

    def __str__(self) -> str:
        return f"`{self.uri}` ({self.licence or 'it says no licence'})"


@dataclass(frozen=True)
class Made:
    """An iteration's outcome, and what it was made from."""

    iteration: Iteration
    scores: Mapping[str, Any] | None
    policy: Artifact
    base: Origin
    labeler: Origin
    pairs: int
    adapter: bool
    published: Origin | None = None
    """Where the pairs are from that were made elsewhere."""
    conversations: bool = False
    """Whether the pairs have `images` and `messages`."""

    @property
    def asked(self) -> str:
        """The columns of what is answered."""
        return "the last turn of `messages` about `images`" if self.conversations else "`question` about `image`"

    @property
    def licence(self) -> str | None:
        """The base's: what is trained from it is under it."""
        return self.base.licence

    @property
    def of_the_pairs(self) -> str:
        """What was trained on."""
        if self.published:
            return f"pairs of {self.published}"
        return f"pairs of its own answers, labelled by {self.labeler}"


def model_card(made: Made, name: str, pairs: str) -> str:
    """README.md of the policy `name`, whose pairs are in `pairs`. Figures are those of the report split."""
    data = ModelCardData(
        model_name=name.rpartition("/")[2],
        license=made.licence,
        base_model=made.base.on_hub,
        library_name="peft" if made.adapter else "transformers",
        pipeline_tag=TASK,
        tags=["dpo", "rlaif-v", *(["lora"] if made.adapter else [])],
        datasets=pairs if made.base.on_hub else None,
        eval_results=list(_results(made)) or None,
    )
    return _page(
        data.to_yaml(),
        f"# {name}",
        f"{made.base}, aligned by the method of {PAPER} in one iteration, `{made.iteration.metadata.name}`: "
        f"{made.pairs} {made.of_the_pairs}, trained on with DPO.",
        "## How to load it",
        _code(_loading(name, made)),
        *_asking(made.iteration),
        *_figures(made),
        "## How it was made",
        _code(_recipe(made.iteration), "yaml"),
        f"Checkpoint {made.policy.uri}, whose manifest.json has SHA-256 {made.policy.sha256}. `report.html` shows "
        "pairs, training and examples; `summary.json` has all figures; `iteration.json` the manifest with its "
        "status.",
    )


def dataset_card(made: Made, name: str) -> str:
    """README.md of the pairs `name`."""
    data = DatasetCardData(
        license=made.published.licence if made.published else made.licence,
        task_categories=[TASK],
        tags=["preference", "dpo", "rlaif-v"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    )
    return _page(
        data.to_yaml(),
        f"# {name}",
        *_description(made, f'from datasets import load_dataset\n\npairs = load_dataset("{name}", split="train")'),
    )


def _description(made: Made, loading: str) -> tuple[str, ...]:
    """What the pairs are, and what their columns mean."""
    if made.published:
        return (
            f"{made.pairs} preference pairs of {made.published}, in the tokens of {made.base}.",
            _code(loading),
            f"`chosen` and `rejected` are answers to {made.asked}, `*_token_ids` their tokens. They were "
            "not sampled here: `*_logps` are no numbers, and there are no claims and scores.",
        )
    return (
        f"{made.pairs} preference pairs of one iteration of {PAPER}: answers of {made.base} to the instructions in "
        f"`{made.iteration.given('instructions', 'uri')}`, whose claims {made.labeler} accepted or rejected.",
        _code(loading),
        f"`chosen` and `rejected` are answers to {made.asked}; `*_claims` what they say, `*_accepted` the "
        "labeler's verdict on each, `*_score` minus the number of claims it rejected; `*_token_ids` and `*_logps` the "
        "sampler's tokens and their log-probabilities, which DPO takes for those of the reference.",
    )


def _results(made: Made) -> Iterator[EvalResult]:
    """The greedy figures of the policy, as the hub's model index has them."""
    if not made.scores:
        return
    benchmark = made.iteration.given("evaluation", "benchmarks", 0) or {}
    for measure in measured(made.scores):
        figure = made.scores["aligned"][measure]
        yield EvalResult(
            task_type=TASK,
            dataset_type=str(benchmark.get("type")),
            dataset_name=str(benchmark.get("name")),
            dataset_split="report",
            metric_type=measure,
            metric_name=MEASURES[measure],
            metric_value=figure["value"] if isinstance(figure, Mapping) else figure,
        )


def _figures(made: Made) -> Sequence[str]:
    """A table of what was measured on the report split, with its intervals."""
    if not made.scores:
        return ()
    names = measured(made.scores)
    lines = [["", *names.values(), "drawn"], ["---"] * (len(names) + 2)]
    lines += [
        [column, *(str(cell(figures[measure])) for measure in names), drawn(figures["decoding"])]
        for column, figures in columns(made.scores).items()
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "## What it does", table, "95% bootstrap intervals over the questions of one run."


def _loading(name: str, made: Made) -> str:
    if made.adapter:
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForImageTextToText\n\n"
            f'base = AutoModelForImageTextToText.from_pretrained("{made.base.on_hub or made.base.uri}")\n'
            f'model = PeftModel.from_pretrained(base, "{name}")'
        )
    return (
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        f'model = AutoModelForImageTextToText.from_pretrained("{name}")\n'
        f'processor = AutoProcessor.from_pretrained("{name}")\n\n'
        f'# or: vllm serve "{name}"'
    )


def _asking(iteration: Iteration) -> Sequence[str]:
    """How it has to be asked, where its files do not say that."""
    asked = iteration.status.model.asked if iteration.status.model else {}
    if not asked:
        return ()
    told = "It was sampled, trained and measured with this, which its files do not say; ask it so:"
    return "## How to ask it", told, _code(_yaml(asked), "yaml")


def _recipe(iteration: Iteration) -> str:
    """What of the spec says how the policy was made."""
    sections = {name: iteration.spec.get(name) or {} for name in RECIPE}
    kept = {name: {k: v for k, v in one.items() if k not in ELSEWHERE} for name, one in sections.items()}
    recipe = {name: one for name, one in kept.items() if one} | {"seed": iteration.spec.get("seed", 0)}
    return _yaml(recipe)


def _yaml(what: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(what), sort_keys=False, allow_unicode=True)).strip()


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _page(front: str, *parts: str) -> str:
    return "\n\n".join([f"---\n{front.strip()}\n---", *parts]) + "\n"
