"""The report of a whole run: what its chains gained and cost, and what it does without some of its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.report import charts
from feedback_workloads.report.__main__ import main
from feedback_workloads.report.cost import Cost, cost
from feedback_workloads.report.iteration import Iteration, StageRecord
from feedback_workloads.report.page import render
from feedback_workloads.report.run import chains, read
from feedback_workloads.report.run_page import render_run
from feedback_workloads.report.run_summary import run_text, summarise_run
from feedback_workloads.report.summary import summarise

from .evidences import ITERATION, evidence
from .test_report import WellFormed

GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 48}
WHY = {
    "promoted": "it meets it",
    "gate failed": "responseHallucination relative to the baseline is 0.97, above 0.9",
    "not begun": "its parent shapes-3 did not pass its gate",
    "stalled": "training: no memory is left; raise the limit",
    "not finished": "suspended at stage training; set spec.suspend to false",
}


def rate(value: float | None) -> dict[str, float | None]:
    around = None if value is None else round(value, 3)
    return {"value": value, "low": around and around - 0.03, "high": around and around + 0.03}


def figures(hallucination: float | None, **more: Any) -> dict[str, Any]:
    """Figures of a policy as summary.json has them."""
    mentions = None if hallucination is None else hallucination / 2
    known = {"response_hallucination": rate(hallucination), "mention_hallucination": rate(mentions)}
    return {**known, "recall": rate(0.8), "mean_words": 18.5, "decoding": GREEDY, **more}


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Writes the folder of one iteration as its own report leaves it."""

    def folder(
        name: str,
        how: str = "promoted",
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
        *,
        parent: str | None = None,
        **more: Any,
    ) -> Path:
        iteration = ITERATION.model_dump(mode="json", by_alias=True)
        iteration["metadata"] = {"name": name}
        iteration["spec"]["model"] = {"from": {"iteration": parent}} if parent else {"uri": "s3://feedback/policy"}
        iteration["ending"] = {"how": how, "why": WHY[how], "kept": name if how == "promoted" else None}
        if how == "not begun":
            iteration["status"]["stages"] = [{"name": "sampling", "state": "Waiting"}]
        summary = {"baseline": before, "aligned": after, "pairs": {"count": 640 * (after is not None)}, "missing": []}
        made = tmp_path / name
        made.mkdir()
        (made / "iteration.json").write_text(json.dumps({**iteration, **more}))
        (made / "summary.json").write_text(json.dumps(summary))
        (made / "report.html").touch()
        return made

    return folder


@pytest.fixture
def stopped(build: Build) -> list[Path]:
    """A chain of four that stopped at the third."""
    return [
        build("shapes-1", "promoted", figures(0.44), figures(0.30)),
        build("shapes-2", "promoted", figures(0.30), figures(0.22), parent="shapes-1"),
        build("shapes-3", "gate failed", figures(0.22), figures(0.215), parent="shapes-2"),
        build("shapes-4", "not begun", parent="shapes-3"),
    ]


def test_a_run_says_what_it_keeps_and_what_that_gained(stopped: list[Path], tmp_path: Path) -> None:
    [chain] = summarise_run(read(stopped), tmp_path)["chains"]
    assert chain["before"] == figures(0.44)
    assert [one["outcome"] for one in chain["iterations"]] == ["promoted", "promoted", "gate failed", "not begun"]
    assert [one["aligned"] and one["aligned"]["response_hallucination"]["value"] for one in chain["iterations"]] == [
        0.3, 0.22, 0.215, None,
    ]  # fmt: skip
    assert chain["kept"] == "shapes-2"
    gained = chain["gain"]["response_hallucination"]
    assert (gained["before"], gained["after"]) == (rate(0.44), rate(0.22))
    assert gained["relative_change"] == pytest.approx(-0.5)
    assert "expected_recall" not in chain["gain"]


def test_a_policy_that_passed_its_gate_is_kept_though_its_endpoint_was_taken_back(build: Build, tmp_path: Path) -> None:
    taken_back = {"how": "stalled", "why": "endpoint: its pods did not get ready", "kept": "shapes-1"}
    folders = [build("shapes-1", "promoted", figures(0.4), figures(0.3), ending=taken_back)]
    [chain] = summarise_run(read(folders), tmp_path)["chains"]
    [one] = chain["iterations"]
    assert (one["outcome"], one["promoted"], chain["kept"]) == ("stalled", True, "shapes-1")
    assert "stalled: endpoint: its pods did not get ready" in run_text(read(folders))
    page = render(replace(evidence(), iteration=read(folders)[0].iteration))
    assert re.search(r'<span class="pill bad">stalled</span>.*endpoint: its pods did not get ready', page, re.DOTALL)


def test_a_run_in_words(stopped: list[Path]) -> None:
    *table, said, _, held = run_text(read(stopped)).splitlines()
    assert [line.split()[0] for line in table[1:]] == ["before", "shapes-1", "shapes-2", "shapes-3", "shapes-4"]
    assert table[1].split("  ")[0] == "before shapes-1"
    assert all("44.0% (41.0–47.0)" in line or "greedy" in line or "–" in line for line in table[1:])
    assert [line.split("  ")[-1] for line in table[2:]] == [
        "promoted",
        "promoted",
        "gate failed: responseHallucination relative to the baseline is 0.97, above 0.9",
        "not begun: its parent shapes-3 did not pass its gate",
    ]
    assert said.startswith(
        "The run keeps shapes-2. Before shapes-1 and now: "
        "answers with a hallucination 44.0% (41.0–47.0) → 22.0% (19.0–25.0), −50%; "
    )
    assert "recall 80.0% (77.0–83.0) → 80.0% (77.0–83.0), ±0%." in said
    assert held.startswith("Held: ")


def test_the_page_of_a_run(stopped: list[Path], tmp_path: Path) -> None:
    page = render_run(read(stopped), tmp_path)
    found = WellFormed(page)
    assert [one["href"] for tag, one in found.elements if tag == "a" and "download" not in one] == [
        f"shapes-{number}/report.html" for number in (1, 2, 3, 4)
    ]
    assert sum(tag == "svg" for tag, _ in found.elements) == 1
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    assert "shapes-1 → shapes-2 → shapes-3 → shapes-4" in page
    assert "its parent shapes-3 did not pass its gate" in page
    assert "recall of expected things" not in page
    assert "This report is incomplete" not in page
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]", page), "a placeholder colour was not replaced"


def test_the_report_of_iterations_is_what_a_run_is_made_of(tmp_path: Path) -> None:
    """The files are those that the report of an iteration writes, and not only alike."""
    summary = summarise(evidence())
    (tmp_path / "one").mkdir()
    (tmp_path / "one/iteration.json").write_text(ITERATION.model_dump_json(by_alias=True))
    (tmp_path / "one/summary.json").write_text(json.dumps(summary))
    [member] = read([tmp_path / "one"])
    assert member.missing == ()
    assert member.summary.aligned
    assert member.summary.aligned.recall.value == summary["aligned"]["recall"]["value"]
    assert member.summary.pairs.truth_agreement == 0.83


def test_expected_recall_is_followed_where_it_is_measured(build: Build, tmp_path: Path) -> None:
    folders = [build("shapes-1", "promoted", figures(0.4), figures(0.3, expected_recall=rate(0.9)))]
    assert "recall of expected things" in run_text(read(folders))
    page = render_run(read(folders), tmp_path)
    WellFormed(page)
    assert "90.0%" in page


def test_two_chains_stand_apart(build: Build, tmp_path: Path) -> None:
    folders = [
        build("a-1", "promoted", figures(0.4), figures(0.3)),
        build("b-1", "gate failed", figures(0.5), figures(0.49)),
        build("a-2", "promoted", figures(0.3), figures(0.2), parent="a-1"),
    ]
    members = read(folders)
    assert [[one.name for one in chain.members] for chain in chains(members)] == [["b-1"], ["a-1", "a-2"]]
    assert [chain.kept and chain.kept.name for chain in chains(members)] == [None, "a-2"]
    assert "Nothing was promoted: the policy stays as it was." in run_text(members)
    page = render_run(members, tmp_path)
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    WellFormed(page)


@pytest.mark.parametrize(
    ("parents", "expect"),
    [
        pytest.param({"a": None, "b": "a", "c": "b"}, ["a b c"], id="a chain"),
        pytest.param({"c": "b", "b": "a", "a": None}, ["a b c"], id="in any order"),
        pytest.param({"a": None, "b": "a", "c": "a"}, ["a b", "a c"], id="a fork"),
        pytest.param({"b": "elsewhere", "c": "b"}, ["b c"], id="the first follows one that is not of the run"),
        pytest.param({"a": "b", "b": "a", "c": None}, ["c", "a", "b"], id="a circle"),
        pytest.param({"a": "b", "b": "a", "c": "b"}, ["a b c"], id="a circle with a way out"),
    ],
)
def test_chains(parents: dict[str, str | None], expect: list[str], build: Build) -> None:
    members = read([build(name, parent=parent) for name, parent in parents.items()])
    assert [" ".join(one.name for one in chain.members) for chain in chains(members)] == expect


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("stalled", "stalled: training: no memory is left; raise the limit"),
        ("not finished", "not finished: suspended at stage training; set spec.suspend to false"),
        (
            "gate failed",
            "gate failed: responseHallucination relative to the baseline is 0.97, above 0.9: Its summary has",
        ),
    ],
)
def test_an_iteration_without_figures_says_why(how: str, said: str, build: Build, tmp_path: Path) -> None:
    folders = [build("shapes-1", "promoted", figures(0.4), figures(0.3)), build("shapes-2", how, parent="shapes-1")]
    last = run_text(read(folders)).splitlines()[3]
    assert re.search(rf"^shapes-2 +–.* {re.escape(said[:80])}", last)
    WellFormed(render_run(read(folders), tmp_path))


def test_what_is_missing_is_named(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, without, broken = build("a"), build("b"), build("c", parent="b")
    (without / "iteration.json").unlink()
    (without / "summary.json").unlink()
    (broken / "summary.json").write_text('{"aligned": {"recall": "much"}, "missing": ["<b>"]}')
    (whole / "report.html").unlink()
    out = tmp_path / "out"
    folders = map(str, [whole, without, broken, tmp_path / "nowhere"])
    assert main(["--iterations", *folders, "--out", str(out)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(str(tmp_path))[0] for line in said] == [
        "cannot read the iteration ",
        "cannot read the summary ",
        "",
        "cannot read the iteration ",
        "cannot read the summary ",
    ]
    run = json.loads((out / "run.json").read_text())
    assert len(run["missing"]) == len(said)
    rows = {one["name"]: one for chain in run["chains"] for one in chain["iterations"]}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "a": "promoted", "b": "unknown", "c": "promoted", "nowhere": "unknown",
    }  # fmt: skip
    assert rows["a"]["page"] is None
    assert rows["b"]["page"] == "../b/report.html"
    assert all(row["aligned"] is None and row["why"] for row in rows.values())
    page = (out / "report.html").read_text()
    assert "This report is incomplete" in page
    WellFormed(page)


def test_two_folders_of_one_name_are_not_mixed(build: Build, tmp_path: Path) -> None:
    first = build("a", "promoted", figures(0.4), figures(0.3))
    (tmp_path / "again").mkdir()
    (tmp_path / "again/iteration.json").write_text((first / "iteration.json").read_text())
    [member] = read([first, tmp_path / "again"])
    assert member.folder == first
    assert "again is left out" in member.missing[0]


def test_hostile_names_and_messages_are_text(build: Build, tmp_path: Path) -> None:
    attack = '<img src=x onerror="alert(1)">$\\frac'
    folder = build("javascript:alert(1)", "promoted", figures(0.4), figures(0.3))
    content = json.loads((folder / "iteration.json").read_text())
    content["metadata"]["name"] = attack
    content["processor"] = attack
    content["status"]["stages"][0]["name"] = attack
    content["ending"] = {"how": "gate failed", "why": f"\x1b[2J\n{attack}", "kept": None}
    (folder / "iteration.json").write_text(json.dumps(content))
    members = read([folder, tmp_path / attack[:9]])
    page = render_run(members, tmp_path)
    found = WellFormed(page)
    assert "<img" not in page
    assert [one["href"] for tag, one in found.elements if tag == "a" and "download" not in one] == [
        "javascript%3Aalert%281%29/report.html"
    ]
    told = run_text(members)
    assert "\x1b" not in told
    assert all(line.isprintable() for line in told.splitlines())


def test_what_is_measured_otherwise_is_not_compared(build: Build) -> None:
    warm = figures(0.2, decoding={**GREEDY, "temperature": 0.7})
    members = read([
        build("a-1", "promoted", figures(0.4), figures(0.3)), build("a-2", "promoted", warm, warm, parent="a-1")
    ])  # fmt: skip
    [chain] = chains(members)
    assert chain.measured_otherwise == ("a-2",)
    assert chain.gain is None
    assert "The run keeps a-2; what that gained is not known. Not to be compared" in run_text(members)


def test_undefined_rates_leave_gaps(build: Build, tmp_path: Path) -> None:
    folders = [
        build("a-1", "promoted", figures(None), figures(0.3)),
        build("a-2", "promoted", figures(0.3), figures(None), parent="a-1"),
    ]
    [chain] = summarise_run(read(folders), tmp_path)["chains"]
    assert chain["gain"]["response_hallucination"]["relative_change"] is None
    WellFormed(render_run(read(folders), tmp_path))


def test_no_curve_of_one_policy() -> None:
    assert charts.chain([figures(0.3), None], None, 0) == ""


# ── cost ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

GPUS = {"resources": {"requests": {"cpu": "6"}, "limits": {"nvidia.com/gpu": "2"}}}
TIMES = {"startTime": "2026-11-24T10:00:00Z", "completionTime": "2026-11-24T10:01:40Z"}


@pytest.mark.parametrize(
    ("given", "stage", "expect"),
    [
        pytest.param({"spec": {"sampling": GPUS}}, TIMES, Cost(600, 200), id="a pod with processors and GPUs"),
        pytest.param({"spec": {"sampling": {**GPUS, "shards": 4}}}, TIMES, Cost(2400, 800), id="that share the work"),
        pytest.param({"spec": {"sampling": {**GPUS, "nodes": 2}}}, TIMES, Cost(1200, 400), id="that train together"),
        pytest.param(
            {"spec": {"sampling": {"resources": {"limits": {"cpu": "500m"}}}}},
            TIMES,
            Cost(50, 0),
            id="half a processor",
        ),
        *(
            pytest.param({"spec": {"sampling": {"resources": resources}}}, TIMES, Cost(None, gpus), id=name)
            for name, resources, gpus in (
                ("another maker's GPUs", {"limits": {"amd.com/gpu": "2"}}, 200),
                ("a part of one", {"limits": {"nvidia.com/mig-3g.40gb": 1}}, 100),
                ("GPUs by claims", {"claims": [{"name": "a", "devices": 3}, {"name": "b"}]}, 400),
                ("a device that is no GPU", {"limits": {"rdma/ib": "1"}}, 0),
            )
        ),
        pytest.param({"spec": {}}, TIMES, Cost(None, 0), id="asks for nothing, so holds nobody knows how much"),
        pytest.param(
            {"spec": {"sampling": {"resources": {"limits": {"cpu": "nan"}}}}}, TIMES, Cost(None, 0), id="no number"
        ),
        pytest.param({"spec": {"sampling": GPUS}}, {}, Cost(0, 0), id="not begun"),
        pytest.param(
            {"spec": {"sampling": GPUS}}, {"startTime": TIMES["startTime"]}, Cost(None, None), id="not at its end"
        ),
        pytest.param(
            {"spec": {"sampling": GPUS}, "held": {"sampling": {"cpuSeconds": 187.5, "gpuSeconds": 3}}},
            TIMES,
            Cost(187.5, 3),
            id="one machine kept account",
        ),
        pytest.param({"spec": {"sampling": GPUS}, "held": {}}, TIMES, Cost(0, 0), id="one machine ran no process"),
    ],
)
def test_cost(given: dict[str, Any], stage: dict[str, Any], expect: Cost) -> None:
    iteration = Iteration.model_validate({"metadata": {"name": "it"}, **given})
    found = cost(iteration, StageRecord.model_validate({"name": "sampling", "state": "Done", **stage}))
    assert found.to_json() == pytest.approx(expect.to_json())


@pytest.mark.parametrize(
    ("stage", "section", "gpu_seconds"),
    [
        pytest.param("splitting", {}, 0, id="rules split"),
        pytest.param("splitting", {"llm": {"model": {"uri": "s3://models/llm"}}}, 200, id="a model splits"),
        pytest.param("pairing", {}, 0, id="pairing"),
    ],
)
def test_a_stage_without_a_model_cost_no_gpu_whatever_the_spec_gives_it(
    stage: str, section: dict[str, Any], gpu_seconds: float
) -> None:
    iteration = Iteration.model_validate({"metadata": {"name": "it"}, "spec": {stage: {**GPUS, **section}}})
    done = StageRecord.model_validate({"name": stage, "state": "Done", **TIMES})
    assert cost(iteration, done) == Cost(600, gpu_seconds)


def test_what_a_run_cost_is_told_by_stage_and_in_all(build: Build, tmp_path: Path) -> None:
    held = {"sampling": {"cpuSeconds": 260, "gpuSeconds": 130.4}, "training": {"cpuSeconds": 500}}
    folders = [build("a", "promoted", figures(0.4), figures(0.3), held=held), build("b", parent="a", held=held)]
    run = summarise_run(read(folders), tmp_path)
    assert run["cost"] == {"cpu_seconds": 1520, "gpu_seconds": pytest.approx(260.8)}
    assert run["seconds"] == 760
    assert run["processors"] == ["AMD EPYC, 2 cores, AVX2"]
    [sampling, *_] = run["chains"][0]["iterations"][0]["stages"]
    assert (sampling["seconds"], sampling["ran"], sampling["cpu_seconds"]) == (130, True, 260)
    last = run_text(read(folders)).splitlines()[-1]
    assert last == ("Held: 1,520 processor-seconds, 261 GPU-seconds; 2 of the 12 finished stages were there already.")
    page = render_run(read(folders), tmp_path)
    assert "260 CPU s, 130 GPU s" in page
    assert "found finished" in page
