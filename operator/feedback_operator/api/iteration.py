"""The resource as a whole."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from feedback_operator.api.base import GROUP, IterationName, Resource
from feedback_operator.api.rules import Rule
from feedback_operator.api.spec import IterationSpec
from feedback_operator.api.status import Condition, IterationStatus

VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FeedbackIteration"


class Metadata(BaseModel):
    """The part of ObjectMeta that the operator reads; other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: IterationName
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


class FeedbackIteration(Resource):
    """One round of learning from open-source AI feedback."""

    RULES = (
        Rule(
            cel="!has(self.spec.model.from) || self.spec.model.from.iteration != self.metadata.name",
            message="spec.model.from.iteration must be another iteration",
            holds=lambda one: one.spec.model.from_ is None or one.spec.model.from_.iteration != one.metadata.name,
        ),
    )

    api_version: Literal["feedback.rlaif.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["FeedbackIteration"]
    metadata: Metadata
    spec: IterationSpec = Field(description="What is wanted.")
    status: IterationStatus = Field(default=IterationStatus(), description="What was observed; the operator writes it.")

    @property
    def looked_at(self) -> bool:
        """The status is about the spec as it is, and not about one from before an edit."""
        return self.status.observed_generation >= self.metadata.generation

    def says(self, kind: str) -> Condition | None:
        """The condition of this type, if it speaks of the spec as it is; one from before an edit says nothing of it."""
        found = next((condition for condition in self.status.conditions if condition.type == kind), None)
        return found if found and found.observed_generation >= self.metadata.generation else None
