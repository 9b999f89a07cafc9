"""The finished iteration as the runner wrote it: the resource with its status, and how long it took."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, ValidationError
from pydantic.alias_generators import to_camel

from feedback_workloads.contract import Artifact, BadInput, Source, shard_folder


def _moment(text: str) -> str:
    if text and datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return text


Moment = Annotated[str, AfterValidator(_moment)]
"""RFC 3339, or empty where it has not come."""


class Partial(BaseModel):
    """What a report needs of a file; other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Shard(Partial):
    """What one shard of a stage handed in."""

    uri: str
    sha256: str
    counts: dict[str, int] = {}
    metrics: dict[str, str] = {}
    reused: bool = False

    @property
    def artifact(self) -> Artifact:
        return Artifact(uri=self.uri, sha256=self.sha256)


class Combined(Partial):
    """What many shards of a stage handed in together: the digest of each one's manifest, in their order."""

    uri: str
    digests: tuple[str, ...]
    counts: dict[str, int] = {}
    reused: bool = False


class StageRecord(Partial):
    """What became of one stage."""

    name: str
    state: str
    message: str = ""
    start_time: Moment = ""
    completion_time: Moment = ""
    shards: tuple[Shard, ...] = ()
    combined: Combined | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """What its shards made, in their order."""
        if self.combined is None:
            return tuple(shard.artifact for shard in self.shards)
        digests = self.combined.digests
        folders = (shard_folder(self.combined.uri, shard, len(digests)) for shard in range(len(digests)))
        return tuple(Artifact(uri=folder, sha256=digest) for folder, digest in zip(folders, digests, strict=True))

    @property
    def done(self) -> bool:
        return self.state == "Done"

    @property
    def ran(self) -> bool:
        """Whether anything was computed, rather than found finished."""
        found = self.combined.reused if self.combined else self.shards and all(shard.reused for shard in self.shards)
        return self.state != "Waiting" and not found

    @property
    def seconds(self) -> float:
        """From the start to the end of its latest attempt; 0 where either is unknown."""
        if not self.start_time or not self.completion_time:
            return 0.0
        return (datetime.fromisoformat(self.completion_time) - datetime.fromisoformat(self.start_time)).total_seconds()

    def count(self, name: str) -> int:
        """A count summed over the shards."""
        if self.combined is not None:
            return self.combined.counts.get(name, 0)
        return sum(shard.counts.get(name, 0) for shard in self.shards)


class PolicySource(Partial):
    """Where the policy came from before alignment, and how it is asked where its files do not have the last word."""

    uri: str
    revision: str | None = None
    sha256: str | None = None
    system_prompt: str | None = None
    chat_template: str | None = None
    processor_kwargs: dict[str, Any] | None = None

    @property
    def source(self) -> Source:
        return Source(uri=self.uri, revision=self.revision, sha256=self.sha256)

    @property
    def asked(self) -> dict[str, Any]:
        """How it is asked, by the names of `spec.model`; nothing where its files say it."""
        said = {
            "systemPrompt": self.system_prompt,
            "chatTemplate": self.chat_template,
            "processorKwargs": self.processor_kwargs,
        }
        return {name: value for name, value in said.items() if value}


class Status(Partial):
    stages: tuple[StageRecord, ...] = ()
    model: PolicySource | None = None
    aligned: Artifact | None = None


class MetadataRecord(Partial):
    name: str


class Ending(Partial):
    """How it ended, why, and which iteration of its chain is kept, as the command that ran it has decided."""

    how: str
    why: str = ""
    kept: str | None = None

    @property
    def tone(self) -> str:
        """Whether that is good: a chain that gains no more is not bad."""
        return {"promoted": "good", "evaluated": "good", "gate failed": "plain", "not begun": "plain"}.get(
            self.how, "bad"
        )


class Held(Partial):
    """What the processes of a stage held of a machine: cores and GPUs times seconds."""

    cpu_seconds: FiniteFloat = 0.0
    gpu_seconds: FiniteFloat = 0.0


class GateRule(Partial):
    """A rule of the gate as the command that ran it has judged it; `broken` is a sentence, empty where it is met."""

    subject: str
    wanted: str
    measured: str
    broken: str


class Iteration(Partial):
    """A FeedbackIteration at its end. `spec` is kept as it was written."""

    api_version: str = ""
    kind: str = ""
    metadata: MetadataRecord
    spec: dict[str, Any] = {}
    status: Status = Status()
    ending: Ending = Ending(how="unknown")
    wall_seconds: float | None = None
    processor: str = ""
    """Of the machine that ran it, where one machine did."""
    held: dict[str, Held] | None = None
    """By stage, where one machine ran it and kept account; a stage of which no process ran is not there."""
    gate: tuple[GateRule, ...] = ()
    """Empty where there is no rule, or the aligned policy was not scored."""

    @classmethod
    def read(cls, file: Path) -> Iteration:
        """Raises BadInput naming the file and each wrong field."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise BadInput(f"cannot read the iteration {file}: {error.strerror}; give --iteration its file") from error
        except ValidationError as error:
            details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BadInput(f"{file} is not an iteration with its status: {details}") from error

    @property
    def manifest(self) -> dict[str, Any]:
        """What a person applies: the iteration without what became of it."""
        head = {"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": self.metadata.name}}
        return {**head, "spec": self.spec}

    def given(self, *path: str | int) -> Any:
        """What the spec says at this path, such as `"model", "uri"`; None where it says nothing."""
        found: Any = self.spec
        for step in path:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    @property
    def parent(self) -> str | None:
        """The iteration whose promoted policy it starts from, if it names one."""
        name = self.given("model", "from", "iteration")
        return name if isinstance(name, str) else None

    def stage(self, name: str) -> StageRecord | None:
        return next((stage for stage in self.status.stages if stage.name == name), None)
