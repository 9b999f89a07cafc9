"""What best-of-8 costs: latency of the best of eight answers over that of one answer, from the same running server.

One client asks one request at a time, each about a new picture, in turns with best_of=8 and best_of=1: a batch of eight
and eight scorings by the reference on the one side, one answer without a reference on the other.
"""

from __future__ import annotations

import base64
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.table import Ratio
from tests.integration.models import picture, tiny_llava
from tests.integration.servers import Server

REQUESTS = 40
WARM_UP = 3
CANDIDATES = 8
TOKENS = 48
SHAPE: dict[str, Any] = {"side": 168, "hidden": 256, "layers": 6}
"""144 picture tokens; 6 million parameters, so that arithmetic counts beside the overhead of a request."""


def run() -> list[Ratio]:
    """Measure the median latencies, in seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        policy, reference = (
            tiny_llava(folder / name, seed, **SHAPE) for seed, name in enumerate(("policy", "reference"))
        )
        server = Server(
            folder / "server.log", "--policy", str(policy), "--reference", str(reference), "--max-model-len", "512"
        )
        try:
            for number in range(WARM_UP):
                seconds(server, 1000 + number, CANDIDATES)
            turns = [(seconds(server, 2 * i, CANDIDATES), seconds(server, 2 * i + 1, 1)) for i in range(REQUESTS)]
        finally:
            server.stop()
    ours, peer = (statistics.median(column) for column in zip(*turns, strict=True))
    return [Ratio("best-of-8 latency over one answer, s", ours, peer, ours / peer, "<= 4")]


def seconds(server: Server, number: int, candidates: int) -> float:
    """Ask about picture `number`, and time the answer."""
    url = "data:image/png;base64," + base64.b64encode(picture(number)).decode()
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe the picture."},
    ]
    began = time.perf_counter()
    server.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": content}],
        temperature=1.0,
        top_p=1.0,
        max_tokens=TOKENS,
        extra_body={"best_of": candidates},
    )
    return time.perf_counter() - began
