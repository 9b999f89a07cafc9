"""deploy/operator.yaml keeps up with the chart."""

from __future__ import annotations

import yaml

from tests.chart.plain import FILE, text
from tests.chart.rendering import ROOT, render


def test_the_file_is_what_the_chart_makes() -> None:
    assert (ROOT / FILE).read_text() == text(), "run `make generate` and commit the result"


def test_it_has_all_of_the_chart_and_nothing_of_helm() -> None:
    objects = list(yaml.safe_load_all((ROOT / FILE).read_text()))
    assert objects[0]["kind"] == "Namespace", "what follows is in it"
    charts = sorted(item["kind"] for item in render() if "helm.sh/hook" not in item["metadata"].get("annotations", {}))
    assert sorted(item["kind"] for item in objects[1:]) == charts
    assert "helm" not in "".join(str(item["metadata"]) for item in objects).lower()
