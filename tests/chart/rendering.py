"""The chart as Helm renders it: values in, objects out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.chart.tools import program

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts/feedback-operator"
RELEASE: Final = "fo"
NAMESPACE: Final = "feedback-system"
NAME: Final = "fo-feedback-operator"
"""What the chart calls its objects in this release."""

Object = dict[str, Any]
Values = Mapping[str, Any]


class Refused(Exception):
    """Helm did not render, and says why."""


@dataclass(frozen=True)
class Rendered:
    """All objects of one rendering."""

    text: str
    objects: tuple[Object, ...]

    def __iter__(self) -> Iterator[Object]:
        return iter(self.objects)

    def one(self, kind: str, suffix: str = "") -> Object:
        """The object of this kind whose name ends so; fails where there is not exactly one."""
        found = self.all(kind, suffix)
        assert len(found) == 1, f"{len(found)} objects of kind {kind}: {[item['metadata']['name'] for item in found]}"
        return found[0]

    def all(self, kind: str, suffix: str = "") -> list[Object]:
        return [item for item in self if item["kind"] == kind and item["metadata"]["name"].endswith(suffix)]

    def container(self) -> Object:
        """The operator's container."""
        found: Object = self.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
        return found

    def environment(self) -> dict[str, str]:
        """Variables of the operator that have a plain value."""
        return {item["name"]: item["value"] for item in self.container()["env"] if "value" in item}


def helm(*arguments: str | Path, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm; values go by standard input."""
    given = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [program("helm"), *arguments, *given],
        check=False,
        input=json.dumps(dict(values)) if values is not None else "",
        capture_output=True,
        text=True,
        timeout=120,
    )


def render(values: Values | None = None, release: str = RELEASE, namespace: str = NAMESPACE) -> Rendered:
    """Render the chart without a cluster. Raises Refused with what Helm says."""
    ended = helm("template", release, CHART, "--namespace", namespace, values=values or {})
    if ended.returncode:
        raise Refused(ended.stderr)
    return Rendered(ended.stdout, tuple(item for item in yaml.safe_load_all(ended.stdout) if item))
