"""In which arithmetic models run: asked of the device, and said where it is a slow choice."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from feedback_workloads.contract import Precision
from feedback_workloads.models.precision import has_bfloat16, resolved


@pytest.mark.parametrize(
    ("precision", "on_gpu", "expect"),
    [
        pytest.param("auto", True, "bfloat16", id="GPUs multiply in bfloat16"),
        pytest.param("auto", False, "float32", id="processors in float32, whichever they are"),
        pytest.param("float32", True, "float32", id="as asked on a GPU"),
        pytest.param("bfloat16", False, "bfloat16", id="as asked on a processor"),
    ],
)
def test_precision(precision: Precision, on_gpu: bool, expect: str) -> None:
    assert resolved(precision, on_gpu=on_gpu) == expect


@pytest.mark.parametrize(
    ("found", "native"),
    [
        pytest.param({"avx2": True, "avx512_f": False, "avx512_bf16": False}, False, id="AVX2 alone"),
        pytest.param({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False, id="AVX-512 without bfloat16"),
        pytest.param({"avx2": True, "avx512_f": True, "avx512_bf16": True}, True, id="AVX-512 with bfloat16"),
        pytest.param({"avx2": True, "avx512_f": False, "amx_bf16": True}, True, id="AMX"),
        pytest.param({"neon": True, "bf16": True}, True, id="Arm with bfloat16"),
        pytest.param({"neon": True, "bf16": False}, False, id="Arm without"),
    ],
)
def test_the_processor_is_asked(
    found: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it emulates bfloat16, the warning has the factor that was measured on it just now."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert has_bfloat16() is native
    threads = torch.get_num_threads()
    with caplog.at_level(logging.WARNING):
        resolved("bfloat16", on_gpu=True)
        resolved("auto", on_gpu=False)
        assert caplog.messages == []
        resolved("bfloat16", on_gpu=False)
    assert len(caplog.messages) == (0 if native else 1)
    if not native:
        assert re.search(r"emulates it.* take [\d.]+ times .*spec\.precision", caplog.messages[0])
    assert torch.get_num_threads() == threads
