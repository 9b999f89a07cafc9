"""`feedback compare`: several models on one benchmark, side by side, with paired tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedback_workloads.benchmarks import comparing
from feedback_workloads.benchmarks.comparing import Difference, Evaluated, compared, holm, main

TOLD = {"benchmark": "chair", "options": {"words": "noun"}, "truth": {"name": "truth.tsv", "sha256": "ab"}}


def model(name: str, **shares: list[tuple[float, float]]) -> Evaluated:
    """Whose answers to the questions 0, 1, 2 ... add these shares; its metrics follow from them."""
    metrics = {metric: sum(part for part, _ in of) / sum(whole for _, whole in of) for metric, of in shares.items()}
    by_question = {metric: {str(number): pair for number, pair in enumerate(of)} for metric, of in shares.items()}
    return Evaluated(name, {**TOLD, "metrics": metrics}, by_question)


def answers(right: int, of: int) -> list[tuple[float, float]]:
    return [(float(number < right), 1.0) for number in range(of)]


def test_a_difference_is_that_of_the_metrics() -> None:
    [found] = compared([model("a", CHAIRi=[(1, 4), (0, 1)]), model("b", CHAIRi=[(2, 4), (2, 4)])])
    assert (found.model, found.metric, found.value) == ("b", "CHAIRi", 4 / 8 - 1 / 5)


def test_equal_answers_do_not_differ() -> None:
    same = {"accuracy": answers(30, 100)}
    assert compared([model("a", **same), model("b", **same)]) == [Difference("b", "accuracy", 0.0, 0.0, 0.0, 1.0)]


def test_a_paired_test_is_that_of_the_discordant_pairs() -> None:
    """With shares of 0 and 1 of one question each it is McNemar's exact test: 6 of 6 discordant pairs, p = 2 / 2^6."""
    [found] = compared([model("a", accuracy=answers(30, 100)), model("b", accuracy=answers(36, 100))])
    assert found.value == pytest.approx(0.06)
    assert found.p == pytest.approx(2 / 2**6, abs=0.01)


def test_questions_that_are_hard_for_both_say_nothing_of_the_difference() -> None:
    """As many right, unpaired, differ in other questions: the interval is wider by far."""
    base = answers(50, 100)
    one = answers(56, 100)
    other = [one[(number + 50) % 100] for number in range(100)]
    paired, crossed = (compared([model("a", r=base), model("b", r=of)])[0] for of in (one, other))
    assert paired.value == crossed.value == pytest.approx(0.06)
    assert (paired.low or 0) > 0
    assert (crossed.low or 0) < 0


def test_under_no_difference_p_is_uniform() -> None:
    """Of 200 pairs of the same model, some 5% have p below 0.05: 2 to 20 in all but one case of a thousand."""
    random = np.random.default_rng(1)
    low = 0
    for _ in range(200):
        one, other = (random.random((60, 2)) < 0.4 for _ in range(2))
        pairs = [[(float(a), 1.0) for a, _ in of] for of in (one, other)]
        [found] = compared([model("a", r=pairs[0]), model("b", r=pairs[1])])
        low += (found.p or 0.0) < 0.05
    assert 2 <= low <= 20


def test_holm() -> None:
    """The example of Holm's procedure: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    plain = [Difference("b", str(number), 0.1, 0.0, 0.2, p) for number, p in enumerate((0.01, 0.04, 0.03, 0.005))]
    undefined = Difference("b", "none", None, None, None, None)
    assert [one.p for one in holm([*plain, undefined])] == [pytest.approx(p) for p in (0.03, 0.06, 0.06, 0.02)] + [None]


def folder(at: Path, told: dict[str, Any], one: Evaluated) -> Path:
    at.mkdir()
    (at / "metrics.json").write_text(json.dumps({**one.told, **told}))
    (at / "shares.json").write_text(json.dumps(one.shares))
    return at


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that is no quotient stands without a difference; one of 0 of 0 too."""
    base = model("a", CHAIRs=answers(40, 80))
    other = model("b", CHAIRs=answers(20, 80))
    metrics = {"sentence_num": 80, "Recall": None}
    folders = [
        folder(tmp_path / name, {"metrics": {**one.told["metrics"], **metrics}}, one)
        for name, one in (("a", base), ("b", other))
    ]
    assert main([*map(str, folders), "--out", str(tmp_path / "table.json")]) == 0
    head, _, rate, count, recall = capsys.readouterr().out.splitlines()
    assert head == f"| chair | {folders[0]} | {folders[1]} | difference (95%) | p |"
    assert rate.startswith("| CHAIRs | 0.5000 | 0.2500 | -0.2500 (-0.3")
    assert count == "| sentence_num | 80 | 80 |  |  |"
    assert recall == "| Recall | 0 of 0 | 0 of 0 |  |  |"
    written = json.loads((tmp_path / "table.json").read_text())
    assert written["differences"][0]["value"] == -0.25
    assert written["differences"][0]["p"] == pytest.approx(1 / (1 + comparing.DRAWS))


@pytest.mark.parametrize(
    ("told", "one", "message"),
    [
        pytest.param(
            {"benchmark": "pope"}, model("b", r=answers(1, 4)), "benchmark in metrics.json is 'pope'", id="benchmark"
        ),
        pytest.param({"truth": {"name": "x"}}, model("b", r=answers(1, 4)), "truth in metrics.json is", id="truth"),
        pytest.param({"judge": {"model": "x"}}, model("b", r=answers(1, 4)), "judge in metrics.json is", id="judge"),
        pytest.param({}, model("b", r=answers(1, 5)), "1 questions, such as '4', are answered", id="questions"),
        pytest.param({}, model("b"), "no answer was judged yet", id="a sheet to be filled in"),
    ],
)
def test_what_was_made_otherwise_is_refused(
    told: dict[str, Any], one: Evaluated, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder(tmp_path / "a", {}, model("a", r=answers(2, 4)))
    assert main([str(first), str(folder(tmp_path / "b", told, one))]) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_such_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = folder(tmp_path / "a", {}, model("a", r=answers(2, 4)))
    assert main([str(first), str(tmp_path)]) == 2
    assert (
        "there is no metrics.json; name a folder that `feedback evaluate --out` has written" in capsys.readouterr().err
    )
    assert main([str(first)]) == 2
    assert "there is nothing to compare" in capsys.readouterr().err
