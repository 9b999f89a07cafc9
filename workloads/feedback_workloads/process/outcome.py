"""What a stage's `run` returns, which the manifest is made of, and whether too much of it was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from feedback_workloads.contract import Artifact, BadInput, FileEntry, RankingChoice, StageConfig

REMEDIES: Final = {
    "neither-yes-nor-no": "name a labeler that begins its answers with yes or no",
    "unfinished-reasoning": "raise spec.sampling.maxNewTokens until thoughts come to their end, or name a policy that "
    "answers at once",
}
"""What helps against rejected rows that are good in themselves, by the reason."""


@dataclass(frozen=True)
class Outcome:
    """A finished stage (or shard): files already stored below its folder, and what was counted and measured.

    `counts` has at least `rows` and `rejected`. Nothing here may depend on time or host.
    """

    files: tuple[FileEntry, ...]
    counts: dict[str, int]
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    ranked: RankingChoice | None = None


def check_rejected(config: StageConfig, counts: Mapping[str, int], *, most: int = 0) -> None:
    """Raise BadInput when more than `max_rejected_fraction` of the rows were rejected.

    `counts` are an `Outcome`'s. While rows still come, `most` is how many there can be in the end: then it raises as
    soon as whatever comes can no longer help.
    """
    rejected, total = counts["rejected"], max(most, counts["rejected"] + counts["rows"])
    if rejected > config.max_rejected_fraction * total:
        reasons = {name.removeprefix("rejected_"): number for name, number in sorted(counts.items())
                   if name.startswith("rejected_")}  # fmt: skip
        numbers = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        remedies = "".join(f"{REMEDIES[reason]}, " for reason in reasons if reason in REMEDIES)
        raise BadInput(
            f"{rejected} of {total} rows were rejected ({numbers}), more than spec.maxRejectedFraction "
            f"{config.max_rejected_fraction}; {remedies}mend the rows listed in {config.output} or raise the fraction"
        )
