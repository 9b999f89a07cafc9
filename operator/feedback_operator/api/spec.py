"""What is wanted: one section a stage, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final, Literal, get_args

from pydantic import Field
from pydantic.alias_generators import to_camel

from feedback_operator.api.apis import APISpec, LabelerAPISpec
from feedback_operator.api.base import (
    _DECIMAL,
    Bound,
    Digest,
    Fraction,
    Heat,
    Integer,
    Name,
    ObjectName,
    Positive,
    Resource,
    Revision,
    Share,
    Switch,
    Temperature,
    Toggle,
    Uri,
    _above,
    _between,
    _within,
)
from feedback_operator.api.pods import StageSection
from feedback_operator.api.rules import OPERATIONAL, Rule, UniqueBy, exactly_one
from feedback_operator.api.sources import LabelerModelSpec, ModelSpec, SourceSpec, SplitterModelSpec
from feedback_workloads.contract import (
    PER_TOKEN_LOSSES,
    BenchmarkType,
    LossType,
    PreferenceLoss,
    RankingRule,
    TruthType,
    WordRule,
)


class ArtifactsSpec(Resource):
    """Where the stages leave their artifacts."""

    uri: Annotated[Uri, Field(max_length=512)] = Field(
        description="Folder for artifacts: s3://bucket/prefix, or a local path without a cluster."
    )


class SamplingSpec(StageSection):
    """How answers are drawn. One decoding for all candidates, so that pairs differ in content, not style."""

    candidates: Integer = Field(default=10, ge=2, le=64, description="Answers to each instruction.")
    temperature: Temperature = Field(default="0.7", description="Sampling temperature, from 0 to 2.")
    top_p: Share = Field(default="1.0", description="Nucleus sampling threshold, above 0 and at most 1.")
    max_new_tokens: Integer = Field(default=512, ge=1, le=32768, description="Longest answer in tokens.")
    temperatures: Annotated[list[Temperature], Field(max_length=16)] = Field(
        default=[],
        description="Ablation without deconfounding: candidate i uses the i-th temperature, round and round.",
    )
    prompts: Annotated[list[Annotated[str, Field(pattern=r"\S", max_length=512)]], Field(max_length=8)] = Field(
        default=[],
        description="Ablation without deconfounding: candidate i answers the i-th of these texts instead of the "
        "instruction that it is then trained on, round and round. References are recomputed.",
    )
    shards: Integer = Field(default=1, ge=1, le=256, description="Pods that share the instructions.")
    max_model_len: Annotated[Annotated[Integer, Field(ge=16, le=1048576)] | None, OPERATIONAL] = Field(
        default=None,
        description="Context length of the policy in vLLM, in tokens, wherever it answers: in the stages sampling "
        "and evaluation, and at the endpoint; absent: the model's own.",
    )


class SentencesSpec(Resource):
    """A rule-based division of answers into sentences."""

    language: Annotated[str, Field(pattern="^[a-z]{2,3}$", max_length=3)] = Field(
        default="en", description="ISO 639 code of the answers' language."
    )


class LLMSpec(Resource):
    """A text model that divides answers into claims and writes the questions."""

    RULES = (exactly_one("model", "api"),)

    model: SplitterModelSpec | None = Field(default=None, description="Instruction-tuned text model.")
    api: APISpec | None = Field(default=None, description="The same behind an API; its pods ask for no devices.")
    temperature: Temperature = Field(default="0.2", description="Sampling temperature, from 0 to 2.")
    top_p: Share = Field(default="0.9", description="Nucleus sampling threshold, above 0 and at most 1.")
    max_new_tokens: Integer = Field(default=2048, ge=16, le=32768, description="Longest list of claims in tokens.")
    attempts: Integer = Field(default=3, ge=1, le=10, description="Tries before an answer is rejected.")


class SplittingSpec(StageSection):
    """How answers become claims and yes/no questions: a type, and the parameters of that type."""

    RULES = (
        Rule(
            cel="(self.type == 'LLM') == has(self.llm)",
            message="llm must be given for type LLM, and for no other",
            holds=lambda splitting: (splitting.type == "LLM") == (splitting.llm is not None),
        ),
        Rule(
            cel="self.type == 'Sentences' || !has(self.sentences)",
            message="sentences must be given for no type but Sentences",
            holds=lambda splitting: splitting.type == "Sentences" or splitting.sentences is None,
        ),
    )

    type: Literal["Sentences", "WholeAnswer", "LLM"] = Field(
        default="Sentences",
        description="Sentences: each sentence is a claim. LLM: a text model finds the claims and writes the questions. "
        "WholeAnswer: the whole answer is the one claim (an ablation, holistic labels).",
    )
    sentences: SentencesSpec | None = Field(default=None, description="Parameters of type Sentences.")
    llm: LLMSpec | None = Field(default=None, description="Parameters of type LLM.")
    question_template: Annotated[str, Field(max_length=512, pattern=r"\{claim\}")] = Field(
        default="Is it true that {claim}? Please answer yes or no.",
        description="Question made of a claim, for types without a model. Must contain {claim}.",
    )
    shards: Integer = Field(default=1, ge=1, le=256, description="Pods that share the answers.")
    max_model_len: Annotated[Annotated[Integer, Field(ge=16, le=1048576)] | None, OPERATIONAL] = Field(
        default=None,
        description="Context length of type LLM's model in vLLM, in tokens; absent: the model's own.",
    )


class LabelingSpec(StageSection):
    """Who judges: a multimodal model, here or behind an API, that accepts or rejects each claim."""

    RULES = (
        Rule(
            cel="(self.type == 'Model') == has(self.model)",
            message="model must be given for type Model, and for no other",
            holds=lambda labeling: (labeling.type == "Model") == (labeling.model is not None),
        ),
        Rule(
            cel="(self.type == 'API') == has(self.api)",
            message="api must be given for type API, and for no other",
            holds=lambda labeling: (labeling.type == "API") == (labeling.api is not None),
        ),
    )

    type: Literal["Model", "API"] = Field(
        default="Model",
        description="Model: a model that the stage's pods load. API: one behind an OpenAI-compatible API; the pods "
        "ask for no devices.",
    )
    api: LabelerAPISpec | None = Field(default=None, description="Model of type API.")
    model: LabelerModelSpec | None = Field(
        default=None,
        description="Of type Model: multimodal model that answers the yes/no questions. It does not think first: its "
        "chat template switches thinking off or, where it cannot, the thought is closed as soon as it is opened.",
    )
    min_yes_no_mass: Fraction = Field(
        default="0.5",
        description="Least probability, from 0 to 1, that the model's answer to a question begins with yes or no. "
        "Where it is less, the model says something else first, and the answer that was to be judged is rejected.",
    )
    shards: Integer = Field(default=1, ge=1, le=256, description="Pods that share the answers.")
    max_model_len: Annotated[Annotated[Integer, Field(ge=16, le=1048576)] | None, OPERATIONAL] = Field(
        default=None, description="Context length of the labeler in vLLM, in tokens; absent: the model's own."
    )


class PairingSpec(StageSection):
    """How scored answers become preference pairs."""

    per_instruction: Integer = Field(default=2, ge=1, le=64, description="Most pairs of one instruction.")
    min_score_difference: Integer = Field(default=1, ge=1, le=64, description="Least difference in rejected claims.")
    length_balance: Toggle = Field(default="Enabled", description="Drop pairs until both sides are equally long.")
    truth: TruthType | None = Field(
        default=None, description="Benchmark type that can judge the answers, where the instructions carry their truth."
    )


class PairsSpec(Resource):
    """Preference pairs that were made elsewhere."""

    source: SourceSpec = Field(
        description="Data set with columns image, question, chosen, rejected and, if they have names, id or idx: what "
        "feedback data convert makes of RLAIF-V, RLHF-V or a table, RLAIF-V's own Parquet files, or the folder of the "
        "stage pairing of another iteration."
    )


class LoRASpec(Resource):
    """Low-rank adapters on the language model's linear layers."""

    rank: Integer = Field(default=64, ge=1, le=512, description="Rank of the adapters.")
    alpha: Integer = Field(default=16, ge=1, le=1024, description="Scale of the adapters, in units of 1/rank.")
    dropout: Fraction = Field(
        default="0.05", description="Share of the adapters' inputs that is dropped while training, from 0 to 1."
    )
    quantization: Literal["NF4"] | None = Field(
        default=None,
        description="NF4: the layers below the adapters are rounded to 4 bits while these are trained (QLoRA), for a "
        "card that is too small for the model. The adapters are scored and served over the model as it is. Absent: "
        "nothing is rounded.",
    )


PREFERENCES: Final[tuple[LossType, ...]] = get_args(PreferenceLoss)
WHOLE_SUMS: Final[tuple[LossType, ...]] = (*PER_TOKEN_LOSSES, "Conditional", "Anchored")
"""Losses in which each token of an answer counts as much as any other."""


class LossTermSpec(Resource):
    """One term of the loss."""

    type: LossType = Field(
        description="Sigmoid: DPO's. SigmoidNorm: the same of log-ratios per token, with a greater beta, such as 5. "
        "IPO: a squared distance of log-ratios per token from 1 / (2 beta). Robust: Sigmoid, where some pairs have "
        "their sides swapped. APOZero: chosen answers up and rejected ones down, for a policy that is worse than the "
        "chosen answers; APODown: both down, rejected ones more, for one that is better. BCOPair: each side of a pair "
        "classified by itself. SFT: minus the log-probability of the chosen answer, per token. Conditional: the chosen "
        "answer under its picture against the same answer under a piece of it. Anchored: the reward of the chosen "
        "answer above anchor. Papers and formulas: docs/losses.md."
    )
    weight: Positive = Field(default="1", description="What the term is multiplied by; greater than 0.")


class LossSpec(Resource):
    """What training minimises: the weighted sum of terms."""

    RULES = (
        Rule(
            cel=f"self.terms.exists(term, term.type in {[*PREFERENCES]})",
            message=f"terms must have one that compares the answers of a pair: {', '.join(PREFERENCES)}",
            holds=lambda loss: loss.has(*PREFERENCES),
        ),
        Rule(
            cel=f"!self.terms.exists(term, term.type in {[*PER_TOKEN_LOSSES]}) || "
            f"self.terms.all(term, term.type in {[*PER_TOKEN_LOSSES, 'SFT']})",
            message="SigmoidNorm and IPO read beta per token, other terms per answer: beside them, terms must have "
            "none but SFT",
            holds=lambda loss: (
                not loss.has(*PER_TOKEN_LOSSES) or all(term.type in {*PER_TOKEN_LOSSES, "SFT"} for term in loss.terms)
            ),
        ),
        Rule(
            cel="self.terms.exists(term, term.type == 'Robust') == has(self.labelSmoothing)",
            message="labelSmoothing must be given with a term Robust, and with no other",
            holds=lambda loss: loss.has("Robust") == (loss.label_smoothing is not None),
        ),
        Rule(
            cel="!has(self.anchor) || self.terms.exists(term, term.type == 'Anchored')",
            message="anchor must be given for no term but Anchored",
            holds=lambda loss: loss.anchor is None or loss.has("Anchored"),
        ),
        Rule(
            cel=f"!has(self.ldAlpha) || !self.terms.exists(term, term.type in {[*WHOLE_SUMS]})",
            message=f"ldAlpha must not be given with a term {', '.join(WHOLE_SUMS[:-1])} or {WHOLE_SUMS[-1]}: these "
            "count each token alike",
            holds=lambda loss: loss.ld_alpha is None or not loss.has(*WHOLE_SUMS),
        ),
    )

    terms: Annotated[list[LossTermSpec], Field(min_length=1, max_length=10), UniqueBy(("type",))] = Field(
        description="What is added up, such as Sigmoid, BCOPair and SFT with weights 0.8, 0.2 and 1 for MPO; Sigmoid "
        "and SFT for RPO; Sigmoid, Conditional and Anchored for mDPO."
    )
    label_smoothing: Annotated[str, _DECIMAL, _within("0", "0.5")] | None = Field(
        default=None, description="Of Robust: the share of pairs whose sides are believed to be swapped, below 0.5."
    )
    ld_alpha: Fraction | None = Field(
        default=None,
        description="LD-DPO's alpha, from 0 to 1: what a token counts that lies beyond the length of the shorter "
        "answer of its pair, in all terms but SFT; absent: as much as any other.",
    )
    anchor: Annotated[str, _DECIMAL, _between("0", "1000")] | None = Field(
        default=None, description="Of Anchored: the reward that chosen answers are to exceed; absent: 0."
    )

    def has(self, *kinds: LossType) -> bool:
        """Whether a term is of one of these types."""
        return any(term.type in kinds for term in self.terms)


class TrainingSpec(StageSection):
    """Direct preference optimisation of the policy."""

    RULES = (
        Rule(
            cel="self.globalBatchSize % (self.perDeviceBatchSize * self.nodes * self.processesPerNode) == 0",
            message="globalBatchSize must be a multiple of perDeviceBatchSize x nodes x processesPerNode",
            holds=lambda training: (
                training.global_batch_size
                % (training.per_device_batch_size * training.nodes * training.processes_per_node)
                == 0
            ),
        ),
        Rule(
            cel="!has(self.lora) || !has(self.lora.quantization) || self.zeroStage != 3",
            message="lora.quantization needs zeroStage 2 or 0: ZeRO-3 cannot divide rounded weights, of which each GPU "
            "holds all",
            holds=lambda training: (
                training.lora is None or training.lora.quantization is None or training.zero_stage != 3
            ),
        ),
    )

    beta: Positive = Field(
        default="0.1", description="Strength of the tie to the policy before alignment; greater than 0."
    )
    loss: LossSpec | None = Field(default=None, description="What is minimised; absent: DPO's loss, Sigmoid alone.")
    learning_rate: Positive = Field(
        default="0.0000005", description="Peak learning rate, as a plain decimal: 0.0000005, not 5e-7."
    )
    epochs: Integer = Field(default=4, ge=1, le=100, description="Passes over the pairs.")
    global_batch_size: Integer = Field(
        default=8, ge=1, le=65536, description="Pairs a step, whatever the number of GPUs."
    )
    warmup_ratio: Fraction = Field(
        default="0.05", description="Share of the steps with a rising learning rate, from 0 to 1."
    )
    weight_decay: Fraction = Field(default="0.01", description="Weight decay of AdamW, from 0 to 1.")
    max_length: Integer = Field(
        default=2048,
        ge=16,
        le=1048576,
        description="Longest row in tokens, picture included. Where the first prompts leave no room for an answer in "
        "it, nothing is sampled.",
    )
    checkpoints_per_epoch: Integer = Field(
        default=4, ge=1, le=100, description="Checkpoints saved and scored an epoch."
    )
    lora: LoRASpec | None = Field(default=None, description="Train adapters instead of all weights.")
    reference: Literal["Sampled", "Recomputed"] = Field(
        default="Sampled", description="Reference log-probabilities: the sampler's own, or from a forward pass."
    )
    parity_limit: Annotated[str, _DECIMAL, _above("0.03", "1000")] = Field(
        default="0.2",
        description="Largest mean difference, in nats a token, between the sampler's log-probabilities and those of a "
        "forward pass. Above 0.03 references are recomputed; above this limit vLLM and the trainer compute different "
        "models, best-of-N would rank by the wrong one, and training ends before its first step.",
    )
    gradient_checkpointing: Annotated[Toggle, OPERATIONAL] = Field(
        default="Enabled", description="Compute activations again in the backward pass: less memory, more time."
    )
    per_device_batch_size: Annotated[Integer, OPERATIONAL] = Field(
        default=1,
        ge=1,
        le=4096,
        description="Pairs a process holds at once; more is faster and takes more memory. At most globalBatchSize / "
        "(nodes x processesPerNode).",
    )
    nodes: Annotated[Integer, OPERATIONAL] = Field(default=1, ge=1, le=256, description="Pods that train together.")
    processes_per_node: Annotated[Integer, OPERATIONAL] = Field(
        default=1, ge=1, le=64, description="Processes a pod: as many as it has GPUs."
    )
    zero_stage: Annotated[Literal[0, 2, 3], OPERATIONAL] = Field(
        default=2, description="DeepSpeed ZeRO stage; 0 trains without DeepSpeed."
    )


class BenchmarkSpec(Resource):
    """Pictures and questions with known truth."""

    RULES = (
        Rule(
            cel="(self.type == 'chair') == has(self.words)",
            message="words must be given for type chair, and for no other",
            holds=lambda benchmark: (benchmark.type == "chair") == (benchmark.words is not None),
        ),
    )

    name: Name = Field(description="Name in reports; each benchmark has its own.")
    type: BenchmarkType = Field(
        description="How answers are judged, and what the column truth holds. shapes: the synthetic world. "
        "coco-objects, chair: a JSON list of COCO's classes, by a word table of this project, and by CHAIR's. pope: "
        "yes or no. amber: an object of AMBER's annotations.json. mmstar: the letter of the right option. feedback "
        "data convert makes such data sets of the official files: docs/benchmarks.md."
    )
    words: WordRule | None = Field(
        default=None,
        description="Of type chair: how words are brought to the singular. pos: lemmas by part of speech (OPERA and "
        "later). singularize: as in the first paper. noun: lemmas as nouns (RLHF-V). Their figures are not comparable.",
    )
    uri: Uri = Field(description="Data set with columns id, image, question, truth, split.")
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )


RateMetric = Literal["responseHallucination", "mentionHallucination", "recall", "expectedRecall", "accuracy", "f1"]
Metric = Literal[RateMetric, "meanWords"]
METRICS: Final[dict[Metric, str]] = {
    "responseHallucination": "response_hallucination",
    "mentionHallucination": "mention_hallucination",
    "recall": "recall",
    "expectedRecall": "expected_recall",
    "accuracy": "accuracy",
    "f1": "f1",
    "meanWords": "mean_words",
}
"""Names of what is measured, in specs, and as stages have them."""
NOT_MEASURED: Final[dict[BenchmarkType, tuple[Metric, ...]]] = {
    "shapes": ("accuracy", "f1"),
    "coco-objects": ("accuracy", "f1"),
    "chair": ("expectedRecall", "accuracy", "f1"),
    "pope": ("expectedRecall",),
    "amber": ("expectedRecall",),
    "mmstar": ("responseHallucination", "mentionHallucination", "recall", "expectedRecall", "f1"),
}
"""What a benchmark of each type has no figure of, as far as that is known before its questions are read."""


class GateRule(Resource):
    """One condition for promotion. Every rule must hold."""

    RULES = (
        Rule(
            cel="has(self.min) || has(self.max)",
            message="give min, max or both",
            holds=lambda rule: rule.min is not None or rule.max is not None,
        ),
        Rule(
            cel="!has(self.min) || !has(self.max) || double(self.min) <= double(self.max)",
            message="min must not be greater than max",
            holds=lambda rule: rule.min is None or rule.max is None or float(rule.min) <= float(rule.max),
        ),
        Rule(
            cel="!has(self.use) || self.use != 'Interval' || has(self.relativeTo)",
            message="use Interval is of a ratio: it needs relativeTo Baseline",
            holds=lambda rule: rule.use != "Interval" or rule.relative_to is not None,
        ),
    )

    benchmark: Name | None = Field(
        default=None,
        description="Benchmark on whose selection split it is measured, by its name; absent: the first. To name "
        "another one changes what the stage evaluation computes.",
    )
    metric: Metric = Field(
        description="What is compared. accuracy and f1 are of closed questions: those of pope, amber and mmstar."
    )
    relative_to: Literal["Baseline"] | None = Field(
        default=None, description="Compare the ratio to the baseline of the same run instead of the value."
    )
    use: Literal["Value", "Interval"] | None = Field(
        default=None,
        description="Value: the value or the ratio itself must be within the bounds. Interval: the whole 95% interval "
        "of the ratio must be within the bounds, and touch neither, so that chance rarely passes. Absent: Value.",
    )
    min: Bound | None = Field(default=None, description="Least value or ratio that passes.")
    max: Bound | None = Field(default=None, description="Greatest value or ratio that passes.")

    def reads(self, first: str) -> dict[str, str]:
        """Names of the metrics that it reads, by what each is of; `first` is the first benchmark's name.

        `aligned`; `baseline` where it is relative; `low` and `high`, of the ratio, where its interval counts.
        """
        of = f"{self.benchmark}/" if self.benchmark not in (None, first) else ""
        name = METRICS[self.metric]
        relative = {"baseline": f"{of}selection.baseline.{name}"} if self.relative_to else {}
        ends = {end: f"{of}selection.ratio.{name}.{end}" for end in ("low", "high") if self.use == "Interval"}
        return {"aligned": f"{of}selection.aligned.{name}", **relative, **ends}


class ChoiceSpec(Resource):
    """By what the checkpoint is chosen."""

    benchmark: Name | None = Field(
        default=None, description="Benchmark on whose selection split it is chosen, by its name; absent: the first."
    )
    metric: RateMetric = Field(
        default="responseHallucination",
        description="What is best in the one that is chosen: the least hallucination, or else the most.",
    )


class DecodingSpec(Resource):
    """How the one answer of each model to a question is drawn."""

    temperature: Temperature = Field(default="0", description="Sampling temperature, from 0 to 2; 0 is greedy.")
    top_p: Share = Field(default="1.0", description="Nucleus sampling threshold, above 0 and at most 1.")
    max_new_tokens: Annotated[Integer, Field(ge=1, le=32768)] | None = Field(
        default=None, description="Longest answer in tokens; absent: as in spec.sampling."
    )


class RankedDecodingSpec(Resource):
    """How the answers that are ranked are drawn: from the nucleus, since among many a rare one wins by its ratio.

    They are as long at most as those that stand alone.
    """

    temperature: Heat = Field(default="0.7", description="Sampling temperature, above 0 and at most 2.")
    top_p: Share = Field(default="0.9", description="Nucleus sampling threshold, above 0 and at most 1.")


class RankingSpec(Resource):
    """By what answers are ranked."""

    RULES = (
        Rule(
            cel="(self.rule == 'Regularised') == has(self.lambda)",
            message="lambda must be given for rule Regularised, and for no other",
            holds=lambda ranking: (ranking.rule == "Regularised") == (ranking.lambda_ is not None),
        ),
    )

    rule: RankingRule = Field(
        description="LogRatio: the paper's, beta / T times the log-ratio of the policy and the model before alignment. "
        "LogRatioSum: without 1 / T. PolicyLikelihood: the policy's log-probability, summed. Regularised: LogRatio "
        "with lambda times the log-probability before alignment added to the log-ratio. Sums favour short answers."
    )
    lambda_: Positive | None = Field(default=None, alias="lambda", description="Weight of rule Regularised.")


def _named(kind: str, part: Callable[[EvaluationSpec], Iterable[GateRule | ChoiceSpec]]) -> tuple[Rule, ...]:
    """What the gate or the choice names is there, and has a figure of the metric."""

    def of(evaluation: EvaluationSpec, one: GateRule | ChoiceSpec) -> BenchmarkSpec | None:
        name = one.benchmark or evaluation.benchmarks[0].name
        return next((benchmark for benchmark in evaluation.benchmarks if benchmark.name == name), None)

    def measured(evaluation: EvaluationSpec, one: GateRule | ChoiceSpec) -> bool:
        found = of(evaluation, one)
        return found is None or one.metric not in NOT_MEASURED[found.type]

    def cel(said: str) -> str:
        """What is said of `r`, of every rule of the gate, or of the choice."""
        if kind == "gate":
            return f"!has(self.gate) || self.gate.all(r, {said})"
        return f"!has(self.choice) || ({said.replace('r.', 'self.choice.')})"

    without = " && ".join(f"(b.type != '{type}' || !(r.metric in {[*names]}))" for type, names in NOT_MEASURED.items())
    return (
        Rule(
            cel=cel("!has(r.benchmark) || self.benchmarks.exists(b, b.name == r.benchmark)"),
            message=f"{kind} must name one of evaluation.benchmarks",
            holds=lambda evaluation: all(of(evaluation, one) for one in part(evaluation)),
        ),
        Rule(
            cel=cel(
                "self.benchmarks.all(b, b.name != (has(r.benchmark) ? r.benchmark : self.benchmarks[0].name) || "
                f"({without}))"
            ),
            message=f"{kind} must name a metric that its benchmark measures: accuracy is of pope, amber and mmstar, f1 "
            "of pope and amber, expectedRecall of shapes, and mmstar has accuracy and meanWords alone",
            holds=lambda evaluation: all(measured(evaluation, one) for one in part(evaluation)),
        ),
    )


class EvaluationSpec(StageSection):
    """How checkpoints are scored, which one is chosen, and what it must reach."""

    RULES = (
        *_named("gate", lambda evaluation: evaluation.gate),
        *_named("choice", lambda evaluation: [evaluation.choice] if evaluation.choice else []),
    )

    benchmarks: Annotated[list[BenchmarkSpec], Field(min_length=1, max_length=8), UniqueBy(("name",))] = Field(
        description="Benchmarks; the selection split of the first one decides which checkpoint is chosen, how its "
        "answers are ranked, and whether the gate passes, but where choice or a rule of the gate names another. Report "
        "splits are for figures alone."
    )
    choice: ChoiceSpec | None = Field(
        default=None,
        description="By what the checkpoint is chosen; absent: the least responseHallucination on the first benchmark.",
    )
    decoding: DecodingSpec = Field(
        default=DecodingSpec(),
        description="How answers that stand alone are drawn: of the policy before alignment and of each checkpoint.",
    )
    best_of: Integer = Field(
        default=8, ge=1, le=64, description="Answers ranked for the best-of-N figures, from 1 up to so many."
    )
    ranked_decoding: RankedDecodingSpec = Field(
        default=RankedDecodingSpec(), description="How the answers that are ranked are drawn."
    )
    lambdas: Annotated[list[Positive], Field(max_length=8)] = Field(
        default=["0.1", "0.3", "1.0"], description="Weights that are tried of the ranking rule Regularised."
    )
    reward_on_baseline: Toggle = Field(
        default="Disabled",
        description="Rank the answers of the policy before alignment by the aligned one, too (a figure of the paper).",
    )
    min_recall_ratio: Fraction = Field(
        default="0.95",
        description="A checkpoint with less than this share of the baseline's recall is chosen only where all have "
        "less; then the one with the highest recall is.",
    )
    gate: Annotated[list[GateRule], Field(max_length=16), OPERATIONAL] = Field(
        default=[], description="What the aligned policy must reach on the selection split to be promoted."
    )


class CanaryStep(Resource):
    """A share of the requests, for a while."""

    weight: Integer = Field(ge=1, le=100, description="Percent of the requests that the canary is given.")
    seconds: Integer = Field(ge=1, le=604800, description="How long the step lasts.")


class GatewayRef(Resource):
    """A Gateway of the Gateway API, as a parentRef of a route names it."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: Name | None = Field(default=None, description="Its namespace; absent: that of the iteration.")
    section_name: ObjectName | None = Field(default=None, description="One of its listeners; absent: all of them.")


class CanarySpec(Resource):
    """How a new revision of the endpoint is tried on a share of the requests before it takes over.

    Shares are weights of an HTTPRoute of the endpoint's name, so requests have to come by its gateways; those that go
    to the endpoint's Service directly never meet a canary.
    """

    gateways: Annotated[list[GatewayRef], Field(min_length=1, max_length=8), UniqueBy(("name",))] = Field(
        description="Gateways that the route is attached to."
    )
    hostnames: Annotated[list[ObjectName], Field(max_length=16), UniqueBy()] = Field(
        default=[], description="Host names of the route; none: those of the gateways."
    )
    steps: Annotated[list[CanaryStep], Field(min_length=1, max_length=16)] = Field(
        description="One after the other; after the last the endpoint's own pods are rolled over. An edit holds for "
        "the step that is at work, too."
    )
    replicas: Integer = Field(default=1, ge=1, le=1000, description="Pods of the canary, beside those that serve.")


class ServingSpec(StageSection):
    """The best-of-N endpoint of the promoted policy."""

    RULES = (
        Rule(
            cel="!has(self.canary) || (has(self.endpoint) && self.endpoint.size() <= 56)",
            message="canary needs an endpoint, with a name of at most 56 characters: its objects are called "
            "ENDPOINT-canary",
            holds=lambda serving: serving.canary is None or 0 < len(serving.endpoint or "") <= 56,
        ),
        Rule(
            cel="self.maxSurge > 0 || self.maxUnavailable > 0",
            message="maxSurge and maxUnavailable must not both be 0: no pod could be replaced",
            holds=lambda serving: serving.max_surge > 0 or serving.max_unavailable > 0,
        ),
        Rule(
            cel="!has(self.pod) || !has(self.pod.terminationGracePeriodSeconds) "
            "|| self.pod.terminationGracePeriodSeconds >= 16",
            message="pod.terminationGracePeriodSeconds must be at least 16: 15 of them are not for requests",
            holds=lambda serving: (serving.pod.termination_grace_period_seconds or 16) >= 16,
        ),
    )

    endpoint: Name | None = Field(
        default=None,
        description="Name of the Deployment and the Service; the newest promoted iteration that names it serves there. "
        "Absent: nothing is served.",
    )
    replicas: Annotated[Integer, Field(ge=0, le=1000)] | None = Field(
        default=None,
        description="Pods behind the endpoint; 0 keeps its name and address without any. Absent: one at first, then as "
        "many as an autoscaler or `kubectl scale` makes of it.",
    )
    best_of: Annotated[Integer, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Answers drawn and ranked for each request that does not say. Absent: as many as the evaluation "
        "found best on the selection split, up to spec.evaluation.bestOf; one where ranking did not help.",
    )
    ranking: RankingSpec | None = Field(
        default=None,
        description="By what answers are ranked. Absent: by what the evaluation found best on the selection split, and "
        "LogRatio where ranking did not help.",
    )
    max_surge: Integer = Field(
        default=1,
        ge=0,
        le=1000,
        description="Pods that a rollout may have beyond replicas. With 0 it needs no spare GPU.",
    )
    max_unavailable: Integer = Field(
        default=0,
        ge=0,
        le=1000,
        description="Pods that a rollout may take away before others are ready. With maxSurge 0 it is at least 1, and "
        "of one pod nothing is served while the next one loads.",
    )
    progress_deadline_seconds: Integer = Field(
        default=1800,
        ge=10,
        le=86400,
        description="A rollout without a newly ready pod for so long is taken back: the pods load models in this time.",
    )
    canary: CanarySpec | None = Field(
        default=None,
        description="Try each new revision on a share of the requests first, beside the one that serves; absent: pods "
        "are rolled over at once. Needs the Gateway API, and an operator that may write its routes.",
    )


def _by_default(section: str, kind: type[StageSection], *fields: str, but: str = "pairs", why: str) -> Rule:
    """Where `but` is given, these fields of a section are as they are by default: the API server fills them in."""
    defaults = {to_camel(name): kind.model_fields[name].default for name in fields}

    def kept(name: str, default: object) -> str:
        if default is None or default == []:
            size = f" || self.{section}.{name}.size() == 0" if default == [] else ""
            return f"(!has(self.{section}.{name}){size})"
        return f"self.{section}.{name} == {default!r}"

    return Rule(
        cel=f"!has(self.{but}) || ({' && '.join(kept(*one) for one in defaults.items())})",
        message=f"{', '.join(f'{section}.{name}' for name in defaults)} must not be given with {but}, {why}",
        holds=lambda spec: (
            getattr(spec, but) is None
            or all(getattr(getattr(spec, section), name) == kind.model_fields[name].default for name in fields)
        ),
    )


def _or_pairs(section: str) -> Rule:
    """A field that has to be given, but where pairs are, or nothing is trained."""
    return Rule(
        cel=f"has(self.only) || has(self.pairs) != has(self.{section})",
        message=f"give exactly one of pairs and {section}: pairs that are made need no {section}",
        holds=lambda spec: spec.only is not None or (spec.pairs is None) != (getattr(spec, section) is None),
    )


_NOTHING_IS_TRAINED: Final = Rule(
    cel="!has(self.only) || (!has(self.instructions) && !has(self.pairs) && !has(self.labeling) && "
    "!has(self.serving) && !has(self.evaluation.choice) && "
    "(!has(self.evaluation.gate) || self.evaluation.gate.size() == 0) && "
    "self.evaluation.rewardOnBaseline == 'Disabled')",
    message="with only Evaluation nothing is trained, chosen, promoted or served: leave out instructions, pairs, "
    "labeling, serving, evaluation.choice, evaluation.gate and evaluation.rewardOnBaseline",
    holds=lambda spec: (
        spec.only is None
        or (
            spec.instructions is spec.pairs is spec.labeling is spec.serving is spec.evaluation.choice is None
            and not spec.evaluation.gate
            and spec.evaluation.reward_on_baseline == "Disabled"
        )
    ),
)
_SAMPLED: Final = ("candidates", "temperature", "top_p", "temperatures", "prompts", "shards")
_SPLIT: Final = ("type", "sentences", "llm", "question_template", "shards")
_PAIRED: Final = ("per_instruction", "min_score_difference", "length_balance", "truth")
_TRAINED: Final = (
    "beta", "loss", "learning_rate", "epochs", "global_batch_size", "warmup_ratio", "weight_decay", "max_length",
    "checkpoints_per_epoch", "lora", "reference", "parity_limit",
)  # fmt: skip
_MADE: Final = "which are made"
_ALONE: Final = "with which nothing is trained"


class IterationSpec(Resource):
    """One round of learning: each stage has a section of its name; the other fields are shared."""

    RULES = (
        _or_pairs("instructions"),
        _or_pairs("labeling"),
        _by_default("sampling", SamplingSpec, *_SAMPLED, why=_MADE),
        _by_default("splitting", SplittingSpec, *_SPLIT, why=_MADE),
        _by_default("pairing", PairingSpec, *_PAIRED, why=_MADE),
        _NOTHING_IS_TRAINED,
        _by_default("sampling", SamplingSpec, *_SAMPLED, but="only", why=_ALONE),
        _by_default("splitting", SplittingSpec, *_SPLIT, but="only", why=_ALONE),
        _by_default("pairing", PairingSpec, *_PAIRED, but="only", why=_ALONE),
        _by_default("training", TrainingSpec, *_TRAINED, but="only", why=_ALONE),
    )

    model: ModelSpec = Field(
        description="The policy to align; also the reference and the baseline. A model of a family that can be "
        "trained: LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, Qwen2.5-VL, Qwen3-VL, InternVL, SmolVLM2 or OmniLMM."
    )
    instructions: SourceSpec | None = Field(
        default=None,
        description="Data set with columns id, image, question: Parquet, JSON lines, CSV or TSV. Must be given, unless "
        "pairs are, or only.",
    )
    pairs: PairsSpec | None = Field(
        default=None,
        description="Pairs that were made elsewhere: nothing is sampled, split or labeled, and the stage pairing reads "
        "them. Of sampling, maxNewTokens and maxModelLen apply then, to evaluation. References are recomputed.",
    )
    only: Literal["Evaluation"] | None = Field(
        default=None,
        description="Evaluation: the stage evaluation runs alone, on the model as it is. Nothing is trained, chosen, "
        "promoted or served. Of sampling, maxNewTokens and maxModelLen apply then. Absent: the whole iteration.",
    )
    artifacts: ArtifactsSpec = Field(description="Where the stages leave their results.")
    sampling: SamplingSpec = Field(default=SamplingSpec(), description="How answers are drawn.")
    splitting: SplittingSpec = Field(
        default=SplittingSpec(), description="How answers are divided into claims, each with a yes/no question."
    )
    labeling: LabelingSpec | None = Field(
        default=None, description="Who accepts or rejects each claim. Must be given, unless pairs are, or only."
    )
    pairing: PairingSpec = Field(default=PairingSpec(), description="How judged answers become preference pairs.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="How the policy learns from the pairs.")
    evaluation: EvaluationSpec = Field(
        description="How checkpoints are scored, which is chosen, and what it must reach."
    )
    serving: Annotated[ServingSpec | None, OPERATIONAL] = Field(
        default=None, description="Best-of-N endpoint of the promoted policy; absent: nothing is served."
    )
    precision: Literal["Auto", "Float32", "BFloat16"] = Field(
        default="Auto", description="Arithmetic of all models; Auto is bfloat16 on GPUs and float32 without."
    )
    seed: Integer = Field(
        default=0,
        ge=0,
        le=2147483647,
        description="Everything random follows from it: the same spec gives the same result.",
    )
    max_rejected_fraction: Fraction = Field(
        default="0.05", description="A stage that rejects a greater share of its rows fails, from 0 to 1."
    )
    suspend: Annotated[Switch, OPERATIONAL] = Field(
        default=False, description="Stop all Jobs; what is complete is kept, and false goes on from there."
    )
    deadline_seconds: Annotated[Annotated[Integer, Field(ge=1, le=31536000)] | None, OPERATIONAL] = Field(
        default=None, description="Most seconds that each stage's Job may take; absent: no limit."
    )
    ttl_seconds_after_finished: Annotated[Annotated[Integer, Field(ge=0, le=31536000)] | None, OPERATIONAL] = Field(
        default=None,
        description="Seconds after which finished Jobs are removed, artifacts stay; absent: with the iteration.",
    )

    def sections(self) -> Iterator[tuple[str, StageSection]]:
        """Every section that becomes pods, with its name."""
        for name in type(self).model_fields:
            if isinstance(section := getattr(self, name), StageSection):
                yield name, section

    def section(self, stage: str) -> StageSection:
        """The section of the stage of this name."""
        section = getattr(self, stage)
        assert isinstance(section, StageSection)
        return section
