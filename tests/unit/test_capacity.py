"""The machine as a node: quantities, and who may start when."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest

from feedback_operator.api import amount
from feedback_operator.cluster.local import capacity as capacity_module
from feedback_operator.cluster.local.capacity import Account, Capacity, Grant, Held, Request, processor


@pytest.mark.parametrize(
    ("text", "number"),
    [("2", "2"), ("500m", "0.5"), ("1.5", "1.5"), ("1Gi", "1073741824"), ("2G", "2000000000"), ("3Ki", "3072")],
)
def test_quantity(text: str, number: str) -> None:
    assert amount(text) == Decimal(number)


@pytest.mark.parametrize(
    ("resources", "request_wanted"),
    [
        pytest.param({}, Request(Decimal(4), Decimal(0), 0), id="nothing asked: all cores"),
        pytest.param({"requests": {"cpu": "1"}}, Request(Decimal(1), Decimal(0), 0), id="requests"),
        pytest.param({"limits": {"nvidia.com/gpu": "2", "cpu": "3"}}, Request(Decimal(3), Decimal(0), 2), id="limits"),
        pytest.param(
            {"requests": {"cpu": "1", "memory": "1Ki"}, "limits": {"cpu": "2"}},
            Request(Decimal(1), Decimal(1024), 0),
            id="requests before limits",
        ),
    ],
)
def test_request(resources: dict[str, dict[str, str]], request_wanted: Request) -> None:
    assert Capacity(4, 10**9, (0, 1)).request(resources) == request_wanted


@pytest.mark.parametrize(
    ("resources", "lacking"),
    [
        ({"cpu": "5"}, "requests 5 cores, but this machine has 4"),
        ({"cpu": "1", "memory": "2G"}, "bytes of memory"),
        ({"cpu": "1", "nvidia.com/gpu": "3"}, "requests 3 GPUs, but this machine has 2"),
        ({"cpu": "4", "nvidia.com/gpu": "2"}, ""),
    ],
)
def test_lacks(resources: dict[str, str], lacking: str) -> None:
    capacity = Capacity(4, 10**9, (0, 1))
    assert lacking in capacity.lacks(capacity.request({"requests": resources}))


async def test_grants_never_exceed_the_machine() -> None:
    capacity = Capacity(2, 10**9, (0, 1))
    held: list[Grant] = []
    most = 0

    async def work() -> None:
        nonlocal most
        async with capacity.granted(Request(Decimal(1), Decimal(0), 1)) as grant:
            held.append(grant)
            most = max(most, len(held))
            assert len({gpu for other in held for gpu in other.gpus}) == len(held), "a GPU was given twice"
            await asyncio.sleep(0)
            held.remove(grant)

    await asyncio.gather(*(work() for _ in range(10)))
    assert most == 2


def test_what_is_held_is_what_was_given_times_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(capacity_module.time, "monotonic", lambda: now)
    account, request = Account(), Request(Decimal(2), Decimal(0), 1)
    with account.holding("default/it", "sampling", request):
        now = 10.0
    with suppress(OSError), account.holding("default/it", "sampling", request):
        now = 15.0
        raise OSError("the process was lost")
    with account.holding("default/other", "sampling", request):
        now = 16.0
    assert account.of("default/it") == {"sampling": Held(30, 15)}
    assert account.of("default/nobody") == {}


@pytest.mark.parametrize(
    ("cpuinfo", "expect"),
    [
        pytest.param(
            "model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f avx512_bf16\n",
            r"AMD EPYC, \d+ cores?, AVX-512 with bfloat16",
            id="AVX-512 with bfloat16",
        ),
        pytest.param(
            "model name\t: A laptop\nflags\t\t: fpu avx avx2\n\nmodel name\t: B\nflags\t\t: avx512f\n",
            r"A laptop, \d+ cores?, AVX2",
            id="AVX2 alone; the first processor speaks for all",
        ),
        pytest.param("Features\t: fp asimd bf16\n", r".+, \d+ cores?, bfloat16", id="Arm has no name there"),
        pytest.param(None, r".+, \d+ cores?", id="not Linux"),
    ],
)
def test_processor(cpuinfo: str | None, expect: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    assert re.fullmatch(expect, processor(file))
