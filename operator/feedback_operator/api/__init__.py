"""FeedbackIteration v1alpha1: the resource that people write.

The only source of the custom resource definition and of the reference documentation, so every field has a description
and explicit limits. Kubernetes API conventions hold: no floating point (decimal strings instead), durations as
`...Seconds` integers, enumerations instead of booleans where a third choice can come, references by name in the same
namespace.
"""

from feedback_operator.api.apis import APISpec, LabelerAPISpec, SecretKey, requests_of
from feedback_operator.api.base import DECIMAL_PATTERN, GROUP, NAME_PATTERN, amount
from feedback_operator.api.iteration import API_VERSION, KIND, VERSION, FeedbackIteration, Metadata
from feedback_operator.api.pods import CA_VARIABLES, Capability, PodOverrides, StageSection
from feedback_operator.api.sources import SourceSpec, model_of
from feedback_operator.api.spec import (
    METRICS,
    BenchmarkSpec,
    CanarySpec,
    DecodingSpec,
    EvaluationSpec,
    GateRule,
    IterationSpec,
    LossSpec,
    RankingSpec,
    SamplingSpec,
    ServingSpec,
    SplittingSpec,
    TrainingSpec,
)
from feedback_operator.api.status import (
    CanaryStatus,
    CombinedResult,
    Condition,
    Hallucination,
    IterationStatus,
    PromotedModel,
    RankingStatus,
    ResolvedModel,
    ServingStatus,
    ShardResult,
    StageStatus,
)

__all__ = [
    "API_VERSION",
    "CA_VARIABLES",
    "DECIMAL_PATTERN",
    "GROUP",
    "KIND",
    "METRICS",
    "NAME_PATTERN",
    "VERSION",
    "APISpec",
    "BenchmarkSpec",
    "CanarySpec",
    "CanaryStatus",
    "Capability",
    "CombinedResult",
    "Condition",
    "DecodingSpec",
    "EvaluationSpec",
    "FeedbackIteration",
    "GateRule",
    "Hallucination",
    "IterationSpec",
    "IterationStatus",
    "LabelerAPISpec",
    "LossSpec",
    "Metadata",
    "PodOverrides",
    "PromotedModel",
    "RankingSpec",
    "RankingStatus",
    "ResolvedModel",
    "SamplingSpec",
    "SecretKey",
    "ServingSpec",
    "ServingStatus",
    "ShardResult",
    "SourceSpec",
    "SplittingSpec",
    "StageSection",
    "StageStatus",
    "TrainingSpec",
    "amount",
    "model_of",
    "requests_of",
]
