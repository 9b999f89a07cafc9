"""Models and data sets that come from outside."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field

from feedback_operator.api.base import Digest, IterationName, Resource, Revision, Switch, Uri, plain_json
from feedback_operator.api.rules import Rule
from feedback_workloads.contract import Model

PLACE: Final = "s3://bucket/prefix, hf://owner/name, or a path on the machine that runs the stage."


SystemPrompt = Annotated[
    Annotated[str, Field(pattern=r"\S", max_length=8192)] | None,
    Field(
        description="What every chat with the model begins with, as its template writes a system prompt; absent: what "
        "the template says by itself. A request to the endpoint that has a system prompt of its own keeps that."
    ),
]
ChatTemplate = Annotated[
    Annotated[str, Field(pattern=r"\S", max_length=16384)] | None,
    Field(
        description="Jinja, as in chat_template.jinja, in the place of the model's own template (vLLM's "
        "--chat-template); absent: its own."
    ),
]
ProcessorKwargs = Annotated[
    Annotated[
        dict[str, Any],
        Field(max_length=32, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
        BeforeValidator(plain_json),
    ]
    | None,
    Field(
        description="Settings of the model's image processor that differ from its preprocessor_config.json, such as "
        "Qwen's max_pixels (vLLM's mm_processor_kwargs). One that the processor does not know is refused."
    ),
]


class SourceSpec(Resource):
    """A model or a data set: where it is, and, if you want to be sure, which bytes."""

    uri: Uri = Field(description=PLACE)
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stage refuses any other content."
    )


SAID_OF_A_MODEL: Final = ("system_prompt", "chat_template", "processor_kwargs", "quantization")
COMMIT: Final = "^[0-9a-f]{40}$"


URI_OR_FROM: Final = Rule(
    cel="has(self.uri) != has(self.from)",
    message="give exactly one of uri and from",
    holds=lambda model: (model.uri is None) != (model.from_ is None),
)

PINNED: Final = Rule(
    cel="!has(self.trustRemoteCode) || !self.trustRemoteCode || has(self.sha256) || "
    f"(has(self.uri) && self.uri.startsWith('hf://') && has(self.revision) && self.revision.matches('{COMMIT}'))",
    message="trustRemoteCode runs what lies beside the weights: say which by sha256 or, of an hf:// repository, by a "
    "revision that is a commit of 40 hexadecimal digits",
    holds=lambda model: not model.trust_remote_code or model.pinned,
)
"""Code that is run is known."""


class SplitterModelSpec(SourceSpec):
    """A model that is asked in words, and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (PINNED,)

    system_prompt: SystemPrompt = None
    chat_template: ChatTemplate = None
    trust_remote_code: Switch = Field(
        default=False,
        description="Run the Python code that comes with the model, for one that transformers does not know by itself. "
        "It runs in the pods of every stage that looks at the model, with what these may reach: docs/security.md.",
    )
    quantization: Literal["FP8"] | None = Field(
        default=None,
        description="FP8: vLLM rounds the weights to 8 bits as it loads them, in half the memory, on GPUs. Absent: as "
        "they are; weights that were quantized before (AWQ, GPTQ, FP8, compressed-tensors) say so in config.json.",
    )

    @property
    def pinned(self) -> bool:
        """Whether all of its bytes are known."""
        commit = (self.uri or "").startswith("hf://") and re.fullmatch(COMMIT, self.revision or "") is not None
        return commit or self.sha256 is not None


class LabelerModelSpec(SplitterModelSpec):
    """A model that is asked about pictures, and how; or the policy."""

    RULES = (
        URI_OR_FROM,
        Rule(
            cel="!has(self.from) || !(has(self.revision) || has(self.sha256) || has(self.systemPrompt) || "
            "has(self.chatTemplate) || has(self.processorKwargs) || has(self.quantization))",
            message="from must be alone: the policy is asked as spec.model says",
            holds=lambda model: (
                model.from_ is None
                or all(getattr(model, name) is None for name in (*SAID_OF_A_MODEL, "revision", "sha256"))
            ),
        ),
        PINNED,
    )

    uri: Uri | None = Field(default=None, description=PLACE)  # type: ignore[assignment]
    from_: Literal["Policy"] | None = Field(
        default=None,
        alias="from",
        description="Policy: the policy judges its own answers (self-alignment); in a chain, that of each iteration.",
    )
    processor_kwargs: ProcessorKwargs = None


class FromIteration(Resource):
    """The model that another iteration of this namespace promoted."""

    iteration: IterationName = Field(description="Name of the FeedbackIteration to wait for and to follow.")


class ModelSpec(Resource):
    """The policy to align: either a source of its own, or the outcome of an earlier iteration."""

    RULES = (
        URI_OR_FROM,
        Rule(
            cel="has(self.uri) || (!has(self.revision) && !has(self.sha256))",
            message="revision and sha256 must not be given with from; the iteration brings its own digest",
            holds=lambda model: model.uri is not None or (model.revision is None and model.sha256 is None),
        ),
        Rule(
            cel="has(self.uri) || (!has(self.systemPrompt) && !has(self.chatTemplate) && !has(self.processorKwargs))",
            message="systemPrompt, chatTemplate and processorKwargs must not be given with from; the model is asked as "
            "the iteration asked it",
            holds=lambda model: (
                model.uri is not None
                or (model.system_prompt is None and model.chat_template is None and model.processor_kwargs is None)
            ),
        ),
    )

    uri: Uri | None = Field(default=None, description=PLACE)
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )
    system_prompt: SystemPrompt = None
    chat_template: ChatTemplate = None
    processor_kwargs: ProcessorKwargs = None
    from_: FromIteration | None = Field(
        default=None, alias="from", description="Chain: start from the model that this iteration promoted."
    )


def model_of(named: BaseModel) -> Model:
    """The model that a spec or a status names by `uri`, and what is said of it there, as stages are given it."""
    said = {name: value for name in Model.model_fields if (value := getattr(named, name, None)) is not None}
    lower = {"quantization": said["quantization"].lower()} if "quantization" in said else {}
    return Model.model_validate({**said, "uri": said["uri"].rstrip("/"), **lower})
