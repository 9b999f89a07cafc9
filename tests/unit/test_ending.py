"""How iterations that were run together ended: in words, and as an exit code."""

from __future__ import annotations

import pytest

from feedback_operator.api import Condition, FeedbackIteration
from feedback_operator.cli.ending import ExitStatus, endings, exit_status
from tests.unit.worlds import iteration, with_metadata

GATE = "responseHallucination relative to the baseline is 0.97, above 0.9"


def ended(name: str, how: str, parent: str = "") -> FeedbackIteration:
    """An iteration that ended so; `how` is the short name of what its conditions say."""
    said = {
        "promoted": [("Ready", "True", "Complete", "all is done"), ("Promoted", "True", "GatePassed", "passed")],
        "gate": [("Ready", "True", "Complete", "all is done"), ("Promoted", "False", "GateFailed", GATE)],
        "parent's gate": [("Stalled", "True", "ParentGateFailed", f"iteration {parent} did not pass its gate")],
        "parent": [("Stalled", "True", "ParentStalled", f"iteration {parent} is stalled: no memory is left")],
        "failed": [
            ("Ready", "False", "OutOfMemory", "no memory is left"),
            ("Stalled", "True", "OutOfMemory", "no memory is left"),
        ],
        "endpoint": [
            ("Stalled", "True", "RolledBack", "endpoint: not ready"), ("Promoted", "True", "GatePassed", "passed")
        ],
        "suspended": [("Ready", "False", "Suspended", "suspended at stage training")],
        "nothing": [],
    }[how]  # fmt: skip
    conditions = [
        Condition(type=kind, status=status, reason=reason, message=message, observed_generation=1)  # type: ignore[arg-type]
        for kind, status, reason, message in said
    ]
    model = {"from": {"iteration": parent}} if parent else {"uri": "s3://b/policy"}
    found = with_metadata(iteration(model=model), name=name)
    return found.model_copy(update={"status": found.status.model_copy(update={"conditions": conditions})})


def chain(*hows: str, name: str = "it") -> list[FeedbackIteration]:
    """Iterations each of which follows the one before."""
    return [ended(f"{name}-{i}", how, f"{name}-{i - 1}" if i > 1 else "") for i, how in enumerate(hows, 1)]


@pytest.mark.parametrize(
    ("iterations", "expect"),
    [
        pytest.param(chain("promoted"), ExitStatus.PROMOTED, id="one, promoted"),
        pytest.param(chain("gate"), ExitStatus.GATE_FAILED, id="one, gate failed"),
        pytest.param(chain("failed"), ExitStatus.FAILED, id="one, failed"),
        pytest.param(chain("suspended"), ExitStatus.FAILED, id="one, suspended"),
        pytest.param(chain("nothing"), ExitStatus.FAILED, id="one, not looked at"),
        pytest.param(chain("endpoint"), ExitStatus.FAILED, id="one, promoted, but its endpoint was rolled back"),
        pytest.param(chain("promoted", "promoted"), ExitStatus.PROMOTED, id="all promoted"),
        pytest.param(chain("promoted", "promoted", "gate"), ExitStatus.PROMOTED, id="the last gains nothing"),
        pytest.param(
            chain("promoted", "gate", "parent's gate", "parent"), ExitStatus.PROMOTED, id="gained, then stopped"
        ),
        pytest.param(chain("gate", "parent's gate", "parent"), ExitStatus.GATE_FAILED, id="gained nothing at all"),
        pytest.param(chain("promoted", "failed", "parent"), ExitStatus.FAILED, id="gained, then failed"),
        pytest.param(chain("gate", "parent's gate", "failed"), ExitStatus.FAILED, id="a failure is not its gate's"),
        pytest.param(
            [*chain("promoted", "gate"), *chain("gate", "parent's gate", name="other")],
            ExitStatus.GATE_FAILED,
            id="one chain of two gained nothing",
        ),
        pytest.param(
            [*chain("promoted", "gate"), *chain("promoted", name="other")], ExitStatus.PROMOTED, id="both gained"
        ),
        pytest.param(
            [*chain("gate"), *chain("failed", name="other")], ExitStatus.FAILED, id="a failure before a failed gate"
        ),
        pytest.param([*chain("promoted", "gate"), ended("fork", "promoted", "it-1")], ExitStatus.PROMOTED, id="a fork"),
        pytest.param(
            [ended("it-2", "parent's gate", "elsewhere")], ExitStatus.GATE_FAILED, id="the gate of one that is not here"
        ),
        pytest.param([ended("it-2", "parent", "elsewhere")], ExitStatus.FAILED, id="one that is not here is stalled"),
        pytest.param([ended("it-2", "gate", "elsewhere")], ExitStatus.GATE_FAILED, id="nothing of this run promoted"),
    ],
)
def test_exit_status(iterations: list[FeedbackIteration], expect: ExitStatus) -> None:
    assert exit_status(iterations) == expect


@pytest.mark.parametrize(
    ("iterations", "expect"),
    [
        pytest.param(
            chain("promoted", "promoted", "gate", "parent's gate", "parent"),
            [
                "it-1: promoted: passed",
                "it-2: promoted: passed",
                f"it-3: gate failed: {GATE}; the run keeps it-2",
                "it-4: not begun: its parent it-3 did not pass its gate",
                "it-5: not begun: its parent it-4 was not begun",
            ],
            id="a chain that stopped",
        ),
        pytest.param(chain("gate"), [f"it-1: gate failed: {GATE}"], id="nothing is kept"),
        pytest.param(
            chain("failed", "parent"),
            ["it-1: stalled: no memory is left", "it-2: stalled: iteration it-1 is stalled: no memory is left"],
            id="a stage failed",
        ),
        pytest.param(
            [*chain("promoted", "endpoint"), ended("it-3", "gate", "it-2")],
            [
                "it-1: promoted: passed",
                "it-2: stalled: endpoint: not ready",
                f"it-3: gate failed: {GATE}; the run keeps it-2",
            ],
            id="what passed its gate is kept, whatever became of its endpoint",
        ),
        pytest.param(chain("suspended"), ["it-1: not finished: suspended at stage training"], id="suspended"),
        pytest.param(chain("nothing"), ["it-1: not finished: it was not looked at"], id="not looked at"),
    ],
)
def test_what_a_person_is_told(iterations: list[FeedbackIteration], expect: list[str]) -> None:
    assert [str(one) for one in endings(iterations)] == expect


def test_what_iteration_json_says_of_it() -> None:
    assert [one.to_json() for one in endings(chain("promoted", "gate"))] == [
        {"how": "promoted", "why": "passed", "kept": "it-1"},
        {"how": "gate failed", "why": GATE, "kept": "it-1"},
    ]
