"""The handbook keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from feedback_operator.api.calls import KINDS
from feedback_operator.plan import endpoint, failures
from feedback_operator.service.telemetry import Telemetry
from tests.chart.rendering import CHART, ROOT

DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SOURCES = ROOT / "operator/feedback_operator"
WORDS = re.compile(r'(?:Failure|Waiting|Trouble)\("(\w+)"|reason="(\w+)"|(?:GateResult|Readiness)\("\w+", "([A-Z]\w+)"')


def reasons() -> set[str]:
    """All reasons of conditions and stages that the operator's sources name."""
    found = {word for words in WORDS.findall("".join(f.read_text() for f in SOURCES.rglob("*.py"))) for word in words}
    children = {f"{kind.name}Refused" for kind in KINDS if {"create", "patch"} & set(kind.verbs)}
    told = {"BadInput", "Temporary", "Communication", "OutOfMemory", "DiskFull"}
    also = {"JobDeleted", "Queued", "JobSuspended", "Replacing", "InvalidSpec"}
    named = found | set(failures.WORDS.values()) | set(get_args(endpoint.State)) | children | told | also
    return named - {"", "EventRefused", "LeaseRefused", "FeedbackIterationRefused"}


def test_reasons_are_found_in_every_room() -> None:
    assert {"GateFailed", "ParentCycle", "NotStarted", "StageRunning"} <= reasons()


@pytest.mark.parametrize("reason", sorted(reasons()))
def test_every_reason_is_explained(reason: str) -> None:
    assert f"`{reason}`" in (ROOT / "docs/operations.md").read_text()


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for family in Telemetry().registry.collect():
        assert f"`{family.name}" in text


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", file.read_text())
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", prose)
    assert [link for link in links if not (file.parent / link).exists()] == []


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_files_in_commands_exist(file: Path) -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", file.read_text(), re.S))
    named = re.findall(r"(?<![\w/.])((?:examples|crds|deploy|charts|images)/[\w./-]*)", blocks)
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_make_targets_in_commands_exist(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)\b", code(file.read_text()))) <= targets


def code(text: str) -> str:
    """Blocks and spans of code."""
    return "\n".join(block or span for block, span in re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", text, re.S))


def test_the_adapters_rule_has_the_metrics_of_the_autoscaler() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.S)
    (rule,) = yaml.safe_load(next(block for block in blocks if "seriesQuery" in block))["rules"]["custom"]
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    autoscaler = yaml.safe_load((ROOT / "examples/autoscaling/llava.yaml").read_text())
    for metric in autoscaler["spec"]["metrics"]:
        assert re.fullmatch(pattern, metric["pods"]["metric"]["name"])


def test_values_that_the_handbook_sets_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for file in DOCS:
        for path in re.findall(r"--set ([\w.]+)=", file.read_text()):
            at: object = values
            for part in path.split("."):
                assert isinstance(at, dict), (file.name, path)
                assert part in at, (file.name, path)
                at = at[part]
