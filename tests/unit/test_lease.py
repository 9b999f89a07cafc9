"""Who may take the Lease, and for how long its holder may write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feedback_operator.cluster.kubernetes.election import Seen, Terms, age_of, claim, free, look

TERMS = Terms("ns", "lease", "me", duration=15, renew_within=10, renew_every=3, look_every=1)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def lease(holder: str = "other", version: str = "1", renewed: datetime | None = NOW, **spec: Any) -> dict[str, Any]:
    stamp = renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if renewed else None
    return {
        "metadata": {"name": "lease", "namespace": "ns", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": stamp, **spec},
    }


@pytest.mark.parametrize(
    ("holder", "seconds", "expected"),
    [
        pytest.param("other", 0, False, id="held by another"),
        pytest.param("other", 14.9, False, id="not heard of, but not for long enough"),
        pytest.param("other", 15, True, id="not heard of for its whole duration"),
        pytest.param("me", 0, True, id="ours"),
        pytest.param("", 0, True, id="given back"),
    ],
)
def test_free(holder: str, seconds: float, expected: bool) -> None:
    assert free(Seen(lease(holder), since=100.0), TERMS, now=100.0 + seconds) is expected


def test_a_holder_lives_as_long_as_the_lease_changes() -> None:
    first = look(None, lease(version="1"), now=100.0, age=0.0)
    assert look(first, lease(version="1"), now=110.0, age=4.0) == first
    assert look(first, lease(version="2"), now=110.0, age=4.0).expires() == 125.0


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        pytest.param(timedelta(seconds=3), 3.0, id="a recent renewal is believed"),
        pytest.param(timedelta(hours=1), 5.0, id="a clock that is ahead may not shorten a holder's right to write"),
        pytest.param(timedelta(hours=-1), 0.0, id="a clock that is behind counts for nothing"),
        pytest.param(None, 0.0, id="never renewed"),
    ],
)
def test_age_at_the_first_look(ago: timedelta | None, expected: float) -> None:
    renewed = NOW - ago if ago is not None else None
    assert age_of(lease(renewed=renewed), TERMS, NOW) == expected


def test_nobody_can_take_it_while_its_holder_may_write() -> None:
    """Whatever both clocks say: the holder writes until `renew_within` after it sent its last renewal."""
    sent = 100.0
    for seen_after in (0.0, 1.0, 5.0, 12.0):
        for age in (0.0, 3.0, 1000.0):
            moment = NOW + timedelta(seconds=age)
            first = look(None, lease(), now=sent + seen_after, age=age_of(lease(), TERMS, moment))
            assert first.expires() >= sent + TERMS.renew_within


@pytest.mark.parametrize(
    ("seen", "acquired", "transitions"),
    [
        pytest.param(None, True, 0, id="new"),
        pytest.param(lease("other", leaseTransitions=4), True, 5, id="taken over"),
        pytest.param(lease("me", leaseTransitions=4, acquireTime="earlier"), False, 4, id="renewed"),
    ],
)
def test_claim(seen: dict[str, Any] | None, acquired: bool, transitions: int) -> None:
    spec = claim(TERMS, Seen(seen, since=0.0) if seen else None, NOW)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("me", 15, transitions)
    assert (spec["acquireTime"] == spec["renewTime"]) is acquired
