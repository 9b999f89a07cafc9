"""How far running stages are: scraped from the metrics that every stage process serves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from feedback_operator.snapshot import Units

TIMEOUT_SECONDS: Final = 1.0


async def scrape(addresses: Sequence[str], *, together: bool = False) -> Units:
    """Progress of one stage over its pods; a pod that does not answer (yet) counts as nothing."""
    if not addresses:
        return Units()
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        texts = await asyncio.gather(*(_fetch(client, address) for address in addresses))
    return joined([parse(text) for text in texts], together=together)


async def _fetch(client: httpx.AsyncClient, address: str) -> str:
    try:
        answer = await client.get(address)
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == 200 else ""


def parse(text: str) -> Units:
    """One process's progress from its metrics in the Prometheus text format."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {sample.name: sample.value for sample in samples}
    phases = [sample.labels["phase"] for sample in samples if sample.name == "feedback_stage_phase"]
    return Units(
        done=int(values.get("feedback_stage_done", 0)),
        total=int(values.get("feedback_stage_total", 0)),
        phase=phases[0] if phases else "",
    )


def joined(parts: Sequence[Units], *, together: bool) -> Units:
    """Progress over all pods: their sum, or, where they do the same work together, that of the one that is furthest.
    The phase is that of the first pod that says one."""
    combine = max if together else sum
    return Units(
        done=combine([part.done for part in parts] or [0]),
        total=combine([part.total for part in parts] or [0]),
        phase=next((part.phase for part in parts if part.phase), ""),
    )
