"""deploy/operator.yaml: the chart's objects with its default values, for those who have no Helm.

`python -m tests.chart.plain` writes it; `make chart-test` finds where it is not what the chart gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from feedback_operator.api.rbac import NAME, NAMESPACE
from tests.chart.rendering import ROOT, Object, render

FILE: Final = Path("deploy/operator.yaml")
HEADER: Final = f"""\
# Made from charts/feedback-operator by `make generate`; edit that, not this.
# The operator for all namespaces, in {NAMESPACE}, with the chart's default values:
#   kubectl apply --server-side -f deploy/operator.yaml
# Its images are in no registry: with your own, sed 's|feedback-operator/[a-z]*:|registry.example/team/&|' before that.
"""
OF_HELM: Final = ("helm.sh/chart", "helm.sh/resource-policy", "app.kubernetes.io/managed-by")
"""Labels and annotations that say that Helm keeps an object."""
HOOK: Final = "helm.sh/hook"


def text() -> str:
    """The file as the chart makes it."""
    objects = [item for item in render(release=NAME, namespace=NAMESPACE) if HOOK not in _annotations(item)]
    space: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return HEADER + yaml.safe_dump_all([space, *map(_plain, objects)], sort_keys=False, width=120)


def _annotations(item: Object) -> Object:
    return item["metadata"].get("annotations") or {}


def _plain(item: Object) -> Object:
    """The object, and the pods that it makes, without what is Helm's."""
    made = {**item, "metadata": _without_helm(item["metadata"])}
    if template := item.get("spec", {}).get("template"):
        pods = {**template, "metadata": _without_helm(template["metadata"])}
        made["spec"] = {**item["spec"], "template": pods}
    return made


def _without_helm(metadata: Object) -> Object:
    made = {key: value for key, value in metadata.items() if key not in ("labels", "annotations")}
    for key in ("labels", "annotations"):
        if kept := {name: value for name, value in (metadata.get(key) or {}).items() if name not in OF_HELM}:
            made[key] = kept
    return made


if __name__ == "__main__":
    (ROOT / FILE).write_text(text())
