"""How far running stages are: scraped from the metrics that every stage process serves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from feedback_operator.plan.snapshot import Units

TIMEOUT: Final = aiohttp.ClientTimeout(total=1.0)
LARGEST_ANSWER: Final = 1 << 18


def scraping() -> aiohttp.ClientSession:
    """A session to ask pods with: never for long, and through no proxy."""
    return aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False)


async def fetch(session: aiohttp.ClientSession, address: str) -> Units | None:
    """What a process says of itself; None where it does not answer (yet), or not in a way that can be understood."""
    try:
        async with session.get(address) as answer:
            text = bytearray()
            async for piece in answer.content.iter_any():
                text += piece
                if len(text) > LARGEST_ANSWER:
                    return None
            return parse(text.decode()) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


async def scrape(addresses: Sequence[str], *, together: bool = False) -> Units:
    """Progress of one stage over its processes; one that does not answer counts as nothing."""
    async with scraping() as session:
        found = await asyncio.gather(*(fetch(session, address) for address in addresses))
    return joined([units for units in found if units], together=together)


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
