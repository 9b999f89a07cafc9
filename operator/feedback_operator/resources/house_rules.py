"""What whoever runs the operator demands of everything that it makes, and what may be asked for by their leave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, get_args

from feedback_operator.api import GROUP, Capability, FeedbackIteration, Metadata
from feedback_operator.resources import Manifest
from feedback_operator.resources.owner import short_digest

LABELS_ANNOTATION: Final = f"{GROUP}/labels"
"""On a Job: what it has inherited, in short."""
IDS: Final = ("runAsUser", "fsGroup")


@dataclass(frozen=True)
class HouseRules:
    """`inherited_labels`: keys of labels that all children and their pods take over from their iteration.
    `capabilities`: those that `spec.*.pod.capabilities` may name. `platform_uid`: user and group of pods are left to
    the platform, as OpenShift demands it, which gives each namespace a range of its own."""

    inherited_labels: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    platform_uid: bool = False

    def followed(self, manifest: Manifest, owner: Metadata) -> Manifest:
        """A child of the iteration `owner` with what is demanded; what it has already stays as it is."""
        labels = self._inherited(owner)
        made = _labelled(manifest, labels)
        if template := manifest.get("spec", {}).get("template"):
            made["spec"] = {**manifest["spec"], "template": self._pods(_labelled(template, labels))}
        if manifest["kind"] == "Job" and labels:
            digest = {LABELS_ANNOTATION: self.labels_digest(owner)}
            made["metadata"]["annotations"] = {**manifest["metadata"].get("annotations", {}), **digest}
        return made

    def _pods(self, template: Manifest) -> Manifest:
        if not self.platform_uid:
            return template
        context = {name: value for name, value in template["spec"]["securityContext"].items() if name not in IDS}
        return {**template, "spec": {**template["spec"], "securityContext": context}}

    def labels_digest(self, owner: Metadata) -> str:
        """What a Job inherits, in short: empty where that is nothing."""
        labels = self._inherited(owner)
        return short_digest(json.dumps(labels, sort_keys=True)) if labels else ""

    def _inherited(self, owner: Metadata) -> dict[str, str]:
        return {key: owner.labels[key] for key in self.inherited_labels if key in owner.labels}

    def broken_by(self, iteration: FeedbackIteration) -> str:
        """What of a spec is not allowed, and what helps, in a sentence; empty where all is."""
        for name, section in iteration.spec.sections():
            asked = [one for one in section.pod.capabilities if one not in self.capabilities]
            if asked:
                return (
                    f"spec.{name}.pod.capabilities: {', '.join(asked)} is not allowed on this cluster; leave it out, "
                    f"or have the operator started with --allow-capability {asked[0]}"
                )
        return ""


NONE: Final = HouseRules()
LENIENT: Final = HouseRules(capabilities=get_args(Capability))
"""All is allowed, and nothing demanded."""


def _labelled(part: Manifest, labels: dict[str, str]) -> Manifest:
    metadata = part["metadata"]
    return {**part, "metadata": {**metadata, "labels": {**labels, **metadata["labels"]}}}
