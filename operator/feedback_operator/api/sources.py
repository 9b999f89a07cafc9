"""Models and data sets that come from outside."""

from __future__ import annotations

from pydantic import Field

from feedback_operator.api.base import Digest, IterationName, Resource, Revision, Uri
from feedback_operator.api.rules import Rule


class SourceSpec(Resource):
    """A model or a data set: where it is, and, if you want to be sure, which bytes."""

    uri: Uri = Field(description="s3://bucket/prefix, hf://owner/name, or a path on the machine that runs the stage.")
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stage refuses any other content."
    )


class FromIteration(Resource):
    """The model that another iteration of this namespace promoted."""

    iteration: IterationName = Field(description="Name of the FeedbackIteration to wait for and to follow.")


class ModelSpec(Resource):
    """The policy to align: either a source of its own, or the outcome of an earlier iteration."""

    RULES = (
        Rule(
            cel="has(self.uri) != has(self.from)",
            message="give exactly one of uri and from",
            holds=lambda model: (model.uri is None) != (model.from_ is None),
        ),
        Rule(
            cel="has(self.uri) || (!has(self.revision) && !has(self.sha256))",
            message="revision and sha256 must not be given with from; the iteration brings its own digest",
            holds=lambda model: model.uri is not None or (model.revision is None and model.sha256 is None),
        ),
    )

    uri: Uri | None = Field(
        default=None, description="s3://bucket/prefix, hf://owner/name, or a path on the machine that runs the stage."
    )
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )
    from_: FromIteration | None = Field(
        default=None, alias="from", description="Chain: start from the model that this iteration promoted."
    )
