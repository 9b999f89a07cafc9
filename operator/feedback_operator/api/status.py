"""What was observed; the operator writes it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from feedback_operator.api.base import Digest, Resource, Revision
from feedback_operator.api.rules import UniqueBy
from feedback_operator.api.sources import ChatTemplate, ProcessorKwargs, SourceSpec, SystemPrompt, model_of
from feedback_workloads.contract import Artifact, Model, shard_folder

Moment = Annotated[str, Field(max_length=20, pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$")]
"""RFC 3339 in UTC with whole seconds, or empty where it has not come."""


def timestamp(moment: datetime | None) -> str:
    """RFC 3339 in UTC with whole seconds; empty for None."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def moment_of(text: str | None) -> datetime | None:
    """The time that an RFC 3339 text says; None for an empty one, or none."""
    return datetime.fromisoformat(text) if text else None


def _measured(text: object) -> object:
    """NaN, infinities and figures of absurd length are as good as not measured."""
    if isinstance(text, str) and not (len(text) <= 64 and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)):
        return ""
    return text


def _cut(text: object) -> object:
    return text if not isinstance(text, str) or len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def _camel_case(text: object) -> object:
    """A reason that a program gave in its own words, in the letters that a condition's reason may have."""
    if not isinstance(text, str) or not text:
        return text
    return re.sub(r"[^A-Za-z0-9]", "", text).lstrip("0123456789")[:128] or "Unknown"


MESSAGE_LIMIT: Final = 8192
# What comes from pods is made to fit: a status that the API server refuses would be worse than one that is cut.
Measured = Annotated[str, Field(max_length=64, pattern=r"^(-?[0-9]+(\.[0-9]+)?)?$"), BeforeValidator(_measured)]
"""A metric as a decimal string, or empty where it was not measured."""
Message = Annotated[str, Field(max_length=MESSAGE_LIMIT), BeforeValidator(_cut)]
Reason = Annotated[str, Field(max_length=128, pattern="^([A-Za-z][A-Za-z0-9]*)?$"), BeforeValidator(_camel_case)]
Whole = Annotated[int, Field(ge=0)]


class Observed(Resource):
    """A part of the status. What another version of the operator wrote there, and this one does not know, is left out:
    an upgrade must not make an iteration invalid."""

    model_config = ConfigDict(extra="ignore")


class Condition(Observed):
    """As metav1.Condition: Ready, Reconciling and Stalled as kstatus reads them, Promoted and Serving."""

    type: Annotated[str, Field(min_length=1, max_length=316)] = Field(description="What the condition is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[Reason, Field(min_length=1)] = Field(description="Why, in one CamelCase word.")
    message: Message = Field(default="", description="Why, in a sentence that says what to do.")
    observed_generation: Whole = Field(default=0, description="metadata.generation that the condition speaks of.")
    last_transition_time: Moment = Field(default="", description="When the status changed last.")


class RankingStatus(Observed):
    """By what answers are ranked."""

    rule: Annotated[str, Field(max_length=64)] = Field(default="LogRatio", description="As in spec.serving.ranking.")
    lambda_: Measured = Field(default="", alias="lambda", description="Weight of rule Regularised.")


class ShardResult(Observed):
    """What one shard of a stage handed in."""

    shard: Annotated[int, Field(ge=0, le=1023)] = Field(description="Number of the shard, from 0.")
    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Folder of the shard's artifact.")
    sha256: Digest = Field(description="Digest of the folder's manifest.json.")
    counts: Annotated[dict[str, int], Field(max_length=1024)] = Field(
        default={}, description="Numbers of rows, of rejected rows and of what else the stage counts."
    )
    metrics: Annotated[dict[str, Measured], Field(max_length=1024)] = Field(
        default={}, description="What the stage measured, as decimal strings."
    )
    aligned: SourceSpec | None = Field(default=None, description="The checkpoint that the evaluation chose.")
    best_of: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="How many of its answers to rank, as the evaluation chose."
    )
    ranking: RankingStatus | None = Field(default=None, description="By what to rank them, as the evaluation chose.")
    reused: bool = Field(default=False, description="True where the artifact was there already.")


class CombinedResult(Observed):
    """What many shards of a stage handed in, in as few words as the next stages need of them."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Folder of the stage's artifact.")
    digests: Annotated[list[Digest], Field(max_length=256)] = Field(
        description="Digest of the manifest.json of each shard, in their order."
    )
    counts: Annotated[dict[str, int], Field(max_length=1024)] = Field(
        default={}, description="Sums of what the shards counted."
    )
    reused: bool = Field(default=False, description="True where all of it was there already.")


class StageStatus(Observed):
    """What is known of one stage."""

    model_config = ConfigDict(revalidate_instances="always")  # copies of it are made to fit, too

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Name of the stage.")
    state: Literal["Waiting", "Running", "Suspended", "Done", "Failed"] = Field(description="Where the stage is.")
    hash: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Content address of the artifact: digest of all that determines it."
    )
    job: Annotated[str, Field(max_length=63)] = Field(default="", description="Name of the Job of the latest attempt.")
    attempt: Whole = Field(default=0, description="Number of the latest attempt, from 0.")
    generation: Whole = Field(default=0, description="Generation of the spec that the latest attempt was started for.")
    retries: Whole = Field(
        default=0,
        description="Attempts of that generation in a row, before the latest, that got no further than those before.",
    )
    reason: Reason = Field(default="", description="Why the stage failed, or what keeps its pods from running.")
    message: Message = Field(default="", description="What goes on, what the stage waits for, or what to do.")
    start_time: Moment = Field(default="", description="When the latest attempt started.")
    completion_time: Moment = Field(default="", description="When the latest attempt ended.")
    done: Whole | None = Field(default=None, description="Progress of a running stage, in its own units.")
    total: Whole | None = Field(default=None, description="What `done` will be at the end.")
    shards: Annotated[list[ShardResult], Field(max_length=256), UniqueBy(("shard",))] = Field(
        default=[], description="What each shard of a finished stage handed in; of more than 32 see combined."
    )
    combined: CombinedResult | None = Field(
        default=None, description="What the shards of a finished stage handed in, where they are more than 32."
    )

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """What its shards made, in their order."""
        if self.combined is None:
            return tuple(Artifact(uri=shard.uri, sha256=shard.sha256) for shard in self.shards)
        uri, digests = self.combined.uri, self.combined.digests
        folders = (shard_folder(uri, shard, len(digests)) for shard in range(len(digests)))
        return tuple(Artifact(uri=folder, sha256=digest) for folder, digest in zip(folders, digests, strict=True))

    def count(self, name: str) -> int:
        """A count summed over its shards."""
        if self.combined is not None:
            return self.combined.counts.get(name, 0)
        return sum(shard.counts.get(name, 0) for shard in self.shards)

    @property
    def was_there(self) -> bool:
        """All that it hands on was found finished."""
        return self.combined.reused if self.combined else bool(self.shards) and all(one.reused for one in self.shards)


class ResolvedModel(Observed):
    """The policy that is being aligned, fixed when the first stage starts."""

    iteration: Annotated[str, Field(max_length=36)] = Field(
        default="", description="The iteration that promoted it, where spec.model.from names one."
    )
    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Where it is.")
    revision: Revision | None = Field(default=None, description="Revision of an hf:// repository.")
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )
    system_prompt: SystemPrompt = None
    chat_template: ChatTemplate = None
    processor_kwargs: ProcessorKwargs = None

    @classmethod
    def of(cls, model: Model, iteration: str = "") -> ResolvedModel:
        """The record of a model that the spec names, or that `iteration` promoted."""
        return cls(
            iteration=iteration,
            uri=model.uri,
            revision=model.revision,
            sha256=model.sha256,
            system_prompt=model.system_prompt,
            chat_template=model.chat_template,
            processor_kwargs=dict(model.processor_kwargs) or None,
        )

    @property
    def model(self) -> Model:
        """As stages are given it."""
        return model_of(self)


class PromotedModel(Observed):
    """The checkpoint that passed the gate last, and all that its endpoint needs beside spec.serving."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Folder of the checkpoint.")
    sha256: Digest = Field(description="Digest of the folder's manifest.json.")
    reference: ResolvedModel = Field(description="The policy before alignment.")
    beta: Annotated[str, Field(max_length=22)] = Field(description="As in spec.training, when it was trained.")
    precision: Annotated[str, Field(max_length=16)] = Field(description="As in spec, when it was scored.")
    temperature: Annotated[str, Field(max_length=22)] = Field(
        description="As in spec.evaluation.decoding, when it was scored."
    )
    top_p: Annotated[str, Field(max_length=22)] = Field(
        description="As in spec.evaluation.decoding, when it was scored."
    )
    max_new_tokens: Whole = Field(description="As in spec.evaluation.decoding, when it was scored.")
    ranked_temperature: Annotated[str, Field(max_length=22)] = Field(
        default="", description="As in spec.evaluation.rankedDecoding, when it was scored."
    )
    ranked_top_p: Annotated[str, Field(max_length=22)] = Field(
        default="", description="As in spec.evaluation.rankedDecoding, when it was scored."
    )
    image: Annotated[str, Field(max_length=512)] = Field(
        default="",
        description="The operator's image for servers when the checkpoint was promoted: an operator that has another "
        "one by now changes no pods. spec.serving.pod.image goes before it.",
    )
    best_of: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="How many answers to rank where spec.serving.bestOf does not say, as it was scored best."
    )
    ranking: RankingStatus | None = Field(
        default=None,
        description="By what to rank where spec.serving.ranking does not say; absent for a model that was promoted "
        "before that was chosen, whose server is told nothing of it.",
    )


class CanaryStatus(Observed):
    """A new revision beside the one that serves."""

    revision: Annotated[str, Field(max_length=64)] = Field(description="Identity of its pods.")
    step: Whole = Field(default=0, description="The step that it is at, from 1; 0 until its pods are ready.")
    weight: Annotated[int, Field(ge=0, le=100)] = Field(default=0, description="Percent of the requests that it has.")
    since: Moment = Field(default="", description="When the step began.")
    passed: bool = Field(default=False, description="True once all steps are over, until the endpoint has followed.")


class ServingStatus(Observed):
    """The endpoint, as far as this iteration has to do with it."""

    endpoint: Annotated[str, Field(max_length=63)] = Field(description="Name of its Deployment and Service.")
    revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Identity of this iteration's pods behind the endpoint."
    )
    replicas: Whole = Field(
        default=0, description="Pods that the Deployment is to have, while this iteration holds the endpoint."
    )
    ready_replicas: Whole = Field(default=0, description="Pods of this revision that take requests.")
    served_revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="The latest revision that was rolled out completely."
    )
    rolled_back_revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="This revision, where its pods did not become ready and were taken back."
    )
    canary: CanaryStatus | None = Field(
        default=None, description="The canary that goes on by spec.serving.canary; absent where none does."
    )


class Hallucination(Observed):
    """Share of answers with a hallucination, on the report split of the first benchmark."""

    baseline: Measured = Field(default="", description="Before alignment, a decimal string.")
    aligned: Measured = Field(default="", description="Of the chosen checkpoint, a decimal string.")


class IterationStatus(Observed):
    """Computed from what was observed, in one place, at the end of each reconciliation."""

    observed_generation: Whole = Field(default=0, description="Generation of the spec that this status is about.")
    stage: Annotated[str, Field(max_length=63)] = Field(default="", description="The stage it is at; empty at the end.")
    progress: Annotated[str, Field(max_length=63)] = Field(
        default="", description="How far that stage is, as done/total in its own units."
    )
    conditions: Annotated[list[Condition], Field(max_length=16), UniqueBy(("type",))] = Field(
        default=[],
        description="Ready: finished. Reconciling: at work. Stalled: needs a person. Promoted: the gate passed. "
        "Serving: the endpoint answers with this policy.",
    )
    stages: Annotated[list[StageStatus], Field(max_length=16), UniqueBy(("name",))] = Field(
        default=[], description="The stages in the order in which they run."
    )
    model: ResolvedModel | None = Field(default=None, description="The policy that is being aligned.")
    aligned: SourceSpec | None = Field(default=None, description="The aligned policy: the checkpoint that was chosen.")
    hallucination: Hallucination | None = Field(
        default=None, description="Did it help: share of hallucinated answers before and after."
    )
    promoted: PromotedModel | None = Field(default=None, description="The checkpoint that passed the gate last.")
    serving: ServingStatus | None = Field(default=None, description="The endpoint.")
