"""The report: what it says, that it is safe and whole, and what it does without some of its parts."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import escape
from PIL import Image

from feedback_operator.api import FeedbackIteration
from feedback_workloads.contract import Artifact, BadInput, BenchmarkConfig, FileEntry, Manifest, Source
from feedback_workloads.method.statistics import Rate
from feedback_workloads.report import charts
from feedback_workloads.report.cards import Origin
from feedback_workloads.report.evidence import (
    Claim,
    Evidence,
    Examples,
    Pair,
    PairAnswer,
    answers_by_question,
    gather,
    kind_of,
    ranked_words,
    reward_of,
)
from feedback_workloads.report.iteration import Iteration, Shard, StageRecord
from feedback_workloads.report.page import Segment, duration, picture, render, segments, shortened
from feedback_workloads.report.push import labeler_of
from feedback_workloads.report.summary import cell, change, on_baseline, paired, served, summarise, table
from feedback_workloads.shapes.world import png, rows
from feedback_workloads.storage.artifacts import ArtifactStore

from .evidences import ITERATION, evidence

VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def whole() -> Evidence:
    return evidence()


@pytest.fixture(scope="module")
def page(whole: Evidence) -> str:
    return render(whole)


class WellFormed(HTMLParser):
    """Collects the elements and raises where they do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_small_and_needs_no_network(page: str) -> None:
    found = WellFormed(page)
    assert len(page) < 3_000_000
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert sum(tag == "svg" for tag, _ in found.elements) == 10
    pictures = [attributes for tag, attributes in found.elements if tag == "img"]
    assert pictures
    assert all((one["src"] or "").startswith("data:image/png;base64,") and one["alt"] for one in pictures)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(0.4, 0.1, "−75%"), (0.8, 0.9, "+12%"), (18.4, 18.35, "±0%"), (0.0, 0.1, ""), (None, 0.1, "")],
)
def test_change(before: float | None, after: float, text: str) -> None:
    assert change(before, after) == text


def test_chart_is_the_same_each_time(whole: Evidence, page: str) -> None:
    assert charts.funnel((whole.pairs or {})["funnel"]) in page


def test_charts_follow_the_page(page: str) -> None:
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]", page), "a placeholder colour was not replaced"
    assert all(f"{variable}:" in page for variable in charts.VARIABLES.values())
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_all_pictures_and_turns_of_a_pair_are_shown() -> None:
    told = PairAnswer("It is red.", -1, [Claim("It is red.", accepted=False, p_yes=0.1)])
    pictures = [png(row.scene) for row in rows(0, "report", 2)]
    shown = Pair(pictures, "User: [picture 1] What?\nAssistant: A dog.\nUser: [picture 2] And here?", told, told)
    page = render(Evidence(ITERATION, None, None, (), Examples(), missing=(), pair_examples=[shown]))
    assert [f'alt="Picture {number} that is asked about"' in page for number in (1, 2, 3)] == [True, True, False]
    assert all(base64.b64encode(data).decode() in page for data in pictures)
    assert "Assistant: A dog.\nUser: [picture 2] And here?" in page


def test_untrusted_text_is_escaped(whole: Evidence) -> None:
    attack = '<img src=x onerror="alert(1)">'
    shown = [
        replace(one, question=attack, answers={who: {**row, "answer": attack, "spans": [{"start": 0, "end": 4}]}
                                               for who, row in one.answers.items()})
        for one in whole.examples.shown
    ]  # fmt: skip
    iteration = ITERATION.model_copy(update={"spec": {"model": {"uri": attack}}})
    examples = replace(whole.examples, shown=shown)
    told = PairAnswer(attack, -1, [Claim(attack, accepted=False, p_yes=0.1)])
    pairs = [Pair([b""], attack, told, told)]
    page = render(Evidence(iteration, None, None, (), examples, missing=(), pair_examples=pairs))
    assert attack not in page
    assert "<img src=x" not in page
    assert "<mark>&lt;img</mark>" in page
    WellFormed(page)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        pytest.param(
            Rate(-0.296, -0.342, -0.25), "29.6 points (25.0 to 34.2) fewer answers of the aligned policy", id="fewer"
        ),
        pytest.param(Rate(0.02, -0.01, 0.05), "2.0 points (-1.0 to 5.0) more answers of the aligned policy", id="more"),
    ],
)
def test_what_is_gained_is_told_question_by_question(difference: Rate, said: str) -> None:
    assert said in paired(difference)
    assert paired(None) == paired(Rate(None, None, None)) == ""


def test_the_paired_interval_is_narrower_than_both(whole: Evidence) -> None:
    found, scores = whole.examples.difference, whole.scores
    assert found is not None
    assert scores is not None
    before, after = (scores[who]["response_hallucination"] for who in ("baseline", "aligned"))
    assert found.value == pytest.approx(after["value"] - before["value"], abs=0.02)  # who names nothing is in none
    assert (found.high or 0) - (found.low or 0) < (before["high"] - before["low"]) + (after["high"] - after["low"])
    assert summarise(whole)["difference"] == found.to_json()


def test_the_software_that_made_it_is_named(whole: Evidence, page: str) -> None:
    assert "Its artifacts were made by torch 2.13.0, vllm 0.31.0 and 0.32.0." in page
    assert summarise(whole)["versions"] == {"torch": ["2.13.0"], "vllm": ["0.31.0", "0.32.0"]}
    assert "Its artifacts were made by" not in render(replace(whole, versions={}))


def test_every_chart_has_its_numbers(whole: Evidence, page: str) -> None:
    links = {name: url for url, name in re.findall(r'href="(data:text/csv[^"]+)" download="([^"]+)"', page)}
    assert len(links) == page.count("<figure")
    tables = {
        name: list(csv.DictReader(io.StringIO(base64.b64decode(url.partition(",")[2]).decode())))
        for name, url in links.items()
    }
    assert [float(row["loss"]) for row in tables["loss-and-rewards.csv"]] == [row["loss"] for row in whole.training]
    assert whole.scores is not None
    baseline = whole.scores["baseline"]["recall"]
    [row] = [row for row in tables["before-and-after.csv"] if row["answers"] == "baseline"]
    assert {end: float(row[f"recall.{end}"]) for end in ("value", "low", "high")} == baseline
    assert len(tables["ranking-several-answers.csv"]) == len(whole.scores["ranking"])


def test_the_manifest_on_the_page_is_one_that_runs(whole: Evidence) -> None:
    """As `feedback run` of it would read it."""
    given = FeedbackIteration.model_validate(yaml.safe_load(Path("examples/shapes.yaml").read_text()))
    iteration = Iteration.model_validate_json(given.model_dump_json(by_alias=True, exclude_none=True))
    page = render(replace(whole, iteration=iteration))
    [text] = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    again = FeedbackIteration.model_validate(yaml.safe_load(unescape(text)))
    assert (again.kind, again.metadata.name, again.spec) == (given.kind, given.metadata.name, given.spec)


def test_the_gate_is_a_table(page: str) -> None:
    rows = re.findall(r'<tr class="reason">(.*?)</tr>', page, re.DOTALL)
    met, broken = (" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows)
    assert met == "recall at least 0.8 0.86 met"
    assert broken == "meanWords meanWords is 16, above 10 at most 10 16 not met"


def test_pairs_are_shown_with_claims_and_verdicts(whole: Evidence, page: str) -> None:
    [pair] = whole.pair_examples
    for answer in (pair.chosen, pair.rejected):
        assert f"{answer.text}<ul" in page
    assert page.count("rejected, p(yes) 0.02</small>") == 2
    assert page.count(">accepted</small>") == 2
    assert f"<mark>{pair.chosen.claims[0].text}</mark>" in page


@pytest.mark.parametrize(
    "without",
    [
        pytest.param({"scores": None, "examples": Examples()}, id="not scored"),
        pytest.param({"pairs": None, "training": ()}, id="no pairs and no training log"),
        pytest.param({"scores": None, "pairs": None, "training": (), "examples": Examples()}, id="nothing"),
    ],
)
def test_partial_report_says_what_is_missing(whole: Evidence, without: dict[str, Any]) -> None:
    partial = replace(whole, missing=("Stage evaluation failed. out of memory & <more>",), **without)
    page = render(partial)
    WellFormed(page)
    assert "This report is incomplete" in page
    assert "out of memory &amp; &lt;more&gt;" in page
    summary = json.loads(json.dumps(summarise(partial), allow_nan=False))
    assert summary["missing"] == list(partial.missing)
    if partial.scores is None:
        assert summary["baseline"] is None
        assert summary["checkpoints"] == []


def test_summary_has_what_scripts_read(whole: Evidence) -> None:
    summary = summarise(whole)
    rates = {"response_hallucination", "mention_hallucination", "recall", "expected_recall"}
    for who in ("baseline", "aligned", "best_of_n"):
        assert {*rates, "mean_words"} <= summary[who].keys()
        assert all(summary[who][rate].keys() == {"value", "low", "high"} for rate in rates)
        assert who == "best_of_n" or rates <= summary["selection"][who].keys()
    assert summary["best_of_n"]["n"] == (whole.scores or {})["best_of_n"]["n"]
    assert summary["baseline_best_of_n"]["n"] == summary["best_of_n"]["n"]
    assert [one["selected"] for one in summary["checkpoints"]].count(True) == 1
    assert {"step", "selected", "mean_words", *rates} <= summary["checkpoints"][0].keys()
    labeler = {"true_claims_accepted": 0.97, "untrue_claims_rejected": 0.88, "answers_right": 0.81}
    assert summary["pairs"] == {"count": 640, "truth_agreement": 0.83, "labeler": labeler}
    assert summary["wall_seconds"] == 763.4
    assert summary["processor"] == "AMD EPYC, 2 cores, AVX2"
    page = render(whole)
    assert "on AMD EPYC, 2 cores, AVX2" in page
    assert "s3://feedback/shapes/labeler" in page
    sampling, _, labeling, *_ = summary["stages"]
    assert sampling["ran"] is True
    assert sampling["seconds"] == 130.0
    assert (sampling["rows"], sampling["rejected"]) == (4000, 2)
    assert sampling["manifest"].endswith("/shard-00000-of-00002/manifest.json")
    assert len(sampling["shards"]) == 2
    assert labeling["ran"] is False
    assert not {"shards", "api"} & {*labeling}


def test_what_an_api_was_paid_is_told_in_all_of_its_shards(whole: Evidence) -> None:
    stages = list(whole.iteration.status.stages)
    paid = {"api_requests": 1200, "api_input_tokens": 900_000, "api_output_tokens": 1200, "api_cost_micros": 2_262_000}
    labeling = stages[2].model_copy(
        update={"shards": tuple(shard.model_copy(update={"counts": paid}) for shard in 2 * stages[2].shards)}
    )
    stages[2] = labeling
    status = whole.iteration.status.model_copy(update={"stages": tuple(stages)})
    changed = replace(whole, iteration=whole.iteration.model_copy(update={"status": status}))
    assert summarise(changed)["stages"][2]["api"] == {
        "requests": 2400, "input_tokens": 1_800_000, "output_tokens": 2400, "cost": 4.524,
    }  # fmt: skip
    sentence = "1,800,000 tokens sent, 2,400 received, for 4.52 in the currency of its price."
    assert f"labeling asked an API 2,400 times: {sentence}" in render(changed)
    assert "asked an API" not in render(whole)


@pytest.mark.parametrize(
    ("labeling", "fact", "origin"),
    [
        pytest.param(
            {"type": "API", "api": {"url": "https://b/v1", "model": "sees"}},
            "labeler <code>sees</code> at <code>https://b/v1</code>",
            "sees at https://b/v1",
            id="behind an API",
        ),
        pytest.param({"model": {"from": "Policy"}}, "its own labeler", "s3://b/policy", id="the policy"),
    ],
)
def test_who_labelled_is_told(whole: Evidence, labeling: dict[str, Any], fact: str, origin: str) -> None:
    spec = {**whole.iteration.spec, "labeling": labeling}
    iteration = whole.iteration.model_copy(update={"spec": spec})
    assert f"<li>{fact}</li>" in render(replace(whole, iteration=iteration))
    assert labeler_of(iteration, Origin("s3://b/policy"), ArtifactStore(Path())).uri == origin


@dataclass
class Stored:
    """Stands in for a store whose every artifact has this scores.json, and nothing else."""

    scores: dict[str, Any]

    def manifest(self, _ref: Artifact) -> Manifest:
        file = FileEntry(name="scores.json", bytes=1, sha256="0" * 64)
        benchmark = BenchmarkConfig(name="shapes", type="shapes", source=Source(uri="s3://b/shapes"))
        config = {"benchmarks": [benchmark.model_dump(mode="json")]}
        versions = {"torch": "2.13.0"}
        return Manifest(stage="evaluation", config=config, config_hash="", files=(file,), counts={}, versions=versions)

    def read(self, _uri: str, _file: FileEntry) -> bytes:
        return json.dumps(self.scores).encode()

    def rows(self, *_: object) -> Iterator[dict[str, Any]]:
        return iter(())

    def pairs(self, *_: object) -> Iterator[dict[str, Any]]:
        return iter(())


@pytest.mark.parametrize("missing", ["ranking", "decoding", "expected_recall"])
def test_scores_of_an_earlier_version_are_named_and_not_read(whole: Evidence, missing: str) -> None:
    assert whole.scores is not None
    scores = {name: value for name, value in whole.scores.items() if name != missing}
    scores["baseline"] = {name: value for name, value in scores["baseline"].items() if name != missing}
    found = gather(ITERATION, Stored(scores))  # type: ignore[arg-type]
    assert found.scores is None
    assert found.versions == {"torch": ["2.13.0"]}
    said = "Stage evaluation is done, but scores.json is of an earlier version; run evaluation again."
    assert found.missing.count(said) == 1
    WellFormed(render(found))
    assert summarise(found)["baseline"] is None


def scores_of(selected: int, *curve: tuple[int, float, float]) -> dict[str, Any]:
    """What scores.json has of the server's default; `curve`: N, rate on the report split, difference."""

    def rate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.03, "high": value + 0.03}

    def figures(share: float) -> dict[str, Any]:
        return {"response_hallucination": rate(share), "recall": rate(0.9)}

    rows = [
        {"rule": "LogRatio", "lambda": None, "n": n, "report": figures(share), "difference": rate(less)}
        for n, share, less in curve
    ]
    best = next(row for row in rows if row["n"] == selected)
    named = {"rule": "LogRatio" if selected > 1 else None, "lambda": None, "n": selected}
    return {"aligned": figures(curve[0][1]), "best_of_n": {**named, **best["report"]}, "ranking": rows}


@pytest.mark.parametrize(
    ("scores", "expect"),
    [
        pytest.param(
            scores_of(2, (1, 0.2, 0), (2, 0.108, -0.095), (8, 0.232, 0.02)),
            "The server's default is the best of 2 by LogRatio: on the selection split, 9.5 points (6.5–12.5) fewer "
            "answers with a hallucination than one answer, in an interval that allows for all that was tried. On the "
            "report split it has 10.8% (7.8–13.8) answers with a hallucination and 90.0% (87.0–93.0) recall; one "
            "answer has 20.0% (17.0–23.0) and 90.0% (87.0–93.0). "
            "Intervals are over the questions of this run; how much another training differs, with another seed, "
            "they do not say.",
            id="ranking helps",
        ),
        pytest.param(
            scores_of(1, (1, 0.2, 0), (2, 0.21, 0.01), (8, 0.232, 0.02)),
            "The server's default is one answer, not ranked: on the selection split, the best of 2 or 8 did by no rule "
            "hallucinate less beyond chance.",
            id="it does not",
        ),
        pytest.param(
            scores_of(1, (1, 0.2, 0), (2, 0.21, 0.01), (4, 0.1, -0.09), (8, 0.1, -0.1)),
            "The server's default is one answer, not ranked: on the selection split, what hallucinated less beyond "
            "chance lost recall (LogRatio at N = 4 or 8).",
            id="it costs recall",
        ),
        pytest.param(
            scores_of(1, (1, 0.2, 0)),
            "The server's default is one answer, not ranked: ranking was not measured, because spec.evaluation.bestOf "
            "is 1.",
            id="nobody knows",
        ),
    ],
)
def test_the_report_says_what_the_server_ranks_and_what_that_gives(scores: dict[str, Any], expect: str) -> None:
    assert served(scores) == expect


def on_baseline_of(*last: tuple[str, str, float | None, float]) -> dict[str, Any]:
    """What scores.json has of the baseline's own answers; `last`: who ranks, rule, weight, rate at the best of 8."""

    def figures(share: float) -> dict[str, Any]:
        return {"response_hallucination": {"value": share, "low": share - 0.03, "high": share + 0.03}}

    rows = [
        {"by": by, "rule": rule, "lambda": weight, "n": n, "report": figures(share if n == 8 else 0.0)}
        for by, rule, weight, share in last
        for n in (1, 8)
    ]
    return {"baseline": figures(0.4), "reward_on_baseline": rows}


@pytest.mark.parametrize(
    ("scores", "expect"),
    [
        pytest.param(
            on_baseline_of(
                ("aligned", "LogRatio", None, 0.3),
                ("aligned", "LogRatioSum", None, 0.31),
                ("aligned", "PolicyLikelihood", None, 0.25),
                ("aligned", "Regularised", 0.3, 0.2),
                ("baseline", "PolicyLikelihood", None, 0.35),
            ),
            "Of the baseline's own answers, the best of 8 hallucinates on the report split by aligned LogRatio in "
            "30.0% (27.0–33.0), by aligned PolicyLikelihood in 25.0% (22.0–28.0), by baseline PolicyLikelihood in "
            "35.0% (32.0–38.0); its one answer in 40.0% (37.0–43.0).",
            id="the same rules, whichever is best here",
        ),
        pytest.param({"reward_on_baseline": None}, "", id="not asked for"),
        pytest.param({"reward_on_baseline": [{"n": 1}]}, "", id="one answer"),
    ],
)
def test_the_report_says_what_ranking_the_answers_of_the_baseline_gives(scores: dict[str, Any], expect: str) -> None:
    assert on_baseline(scores) == expect


def test_the_rewards_on_the_answers_of_the_baseline_are_drawn_where_they_were_measured(
    whole: Evidence, page: str
) -> None:
    scores = whole.scores or {}
    assert "Ranking the baseline&#39;s own answers" in page
    assert str(escape(on_baseline(scores))) in page
    rows = summarise(whole)["reward_on_baseline"]
    tried = {(row["by"], row["rule"], row["lambda"], row["n"]) for row in rows}
    rules = {(row["rule"], row["lambda"], row["n"]) for row in scores["ranking"]}
    own = {("baseline", "PolicyLikelihood", None, n) for n in (1, 2, 4, 8)}
    assert tried == {("aligned", *rule) for rule in rules} | own
    assert all({"selection", "report", "decoding"} <= row.keys() for row in rows)
    without = render(replace(whole, scores={**scores, "reward_on_baseline": None}))
    assert "Ranking the baseline" not in without


def test_the_server_default_is_on_the_page_and_in_the_summary(whole: Evidence) -> None:
    assert whole.scores is not None
    assert summarise(whole)["selected_best_of"] == whole.scores["best_of_n"]["n"]
    assert str(escape(served(whole.scores))) in render(whole)


def test_every_figure_says_how_its_answers_were_drawn(whole: Evidence) -> None:
    summary = summarise(whole)
    greedy = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 512}
    figures = [summary["baseline"], summary["aligned"], *summary["checkpoints"]]
    assert all(one["decoding"] == greedy for one in figures)
    ranked = [summary["best_of_n"], summary["baseline_best_of_n"], *summary["ranking"]]
    assert all(one["decoding"] == {**greedy, "temperature": 0.7, "top_p": 0.9} for one in ranked)


def test_the_table_has_what_costs_nothing_to_compare_with(whole: Evidence) -> None:
    scores = whole.scores or {}
    lines = table(scores).splitlines()
    assert [line[:45].strip() for line in lines[1:]] == [
        "baseline",
        "aligned",
        f"aligned, {ranked_words(scores['best_of_n'])}",
        f"baseline, best of {scores['best_of_n']['n']} by its own likelihood",
    ]
    assert [line.rsplit("  ", 1)[1].strip() for line in lines] == ["drawn", *["greedy"] * 2, *["T 0.7, top-p 0.9"] * 2]


def test_recall_of_expected_things_is_shown_where_the_benchmark_marks_some(whole: Evidence) -> None:
    assert "recall of expected things" in table(whole.scores or {})
    assert "recall of expected things" in render(whole)
    unmarked = re.sub(r'("expected_recall": \{)[^}]*\}', r'\1"value": null, "low": null, "high": null}',
                      json.dumps(whole.scores))  # fmt: skip
    scores = json.loads(unmarked)
    assert "expected" not in table(scores)
    page = render(replace(whole, scores=scores))
    assert "expected things" not in page
    WellFormed(page)


def test_another_benchmark_has_a_table_of_what_it_measures(whole: Evidence) -> None:
    """Letters of options: there are accuracy and length, and no hallucination, recall or F1."""
    scores = json.loads(json.dumps(whole.scores))
    unknown, accuracy = ({"value": value, "low": value, "high": value} for value in (None, 0.5))
    names = ("response_hallucination", "mention_hallucination", "recall", "expected_recall")
    columns = ("baseline", "aligned", "best_of_n")
    letters = {who: {**scores[who], **dict.fromkeys(names, unknown), "accuracy": accuracy} for who in columns}
    scores["others"] = {"star-<b>": {**letters, "checkpoints": [], "baseline_best_of_n": None}}
    changed = replace(whole, scores=scores)
    page = render(changed)
    WellFormed(page)
    [section] = re.findall(r'<section aria-label="Benchmark star-&lt;b&gt;">(.*?)</section>', page, re.DOTALL)
    assert re.findall(r'<th class="number">(.*?)</th>', section) == ["accuracy", "mean words"]
    assert section.count("50.0%") == 3
    assert summarise(changed)["others"]["star-<b>"]["aligned"]["accuracy"] == accuracy
    assert table(scores["others"]["star-<b>"]).split()[:4] == ["accuracy", "mean", "words", "drawn"]
    # the first benchmark may be such a one, too
    both = dict.fromkeys(("selection", "report"), letters["aligned"])
    nothing = {"ranking": [], "reward_on_baseline": None, "baseline_best_of_n": None}
    first = {
        **scores,
        **letters,
        **nothing,
        "checkpoints": [{**one, **both} for one in scores["checkpoints"]],
        "best_of_n": {**letters["best_of_n"], "n": 1},
    }
    WellFormed(render(replace(whole, scores=first)))


@pytest.mark.parametrize(
    ("figure", "expect"),
    [
        pytest.param({"value": 0.24, "low": 0.2014, "high": 0.282}, "24.0% (20.1–28.2)", id="rate"),
        pytest.param({"value": None, "low": None, "high": None}, "–", id="undefined"),
        pytest.param(17.04, "17.0", id="length"),
    ],
)
def test_cell(figure: Any, expect: str) -> None:
    assert str(cell(figure)) == expect


@pytest.mark.parametrize(
    ("spans", "expect"),
    [
        pytest.param([], ["a cat and a dog"], id="none"),
        pytest.param([(2, 5)], ["a ", "*cat", " and a dog"], id="inside"),
        pytest.param([(12, 15), (0, 1)], ["*a", " cat and a ", "*dog"], id="at both ends, out of order"),
        pytest.param([(2, 5), (4, 9)], ["a ", "*cat", "* and", " a dog"], id="overlapping"),
        pytest.param([(12, 99), (99, 120)], ["a cat and a ", "*dog"], id="beyond the end"),
    ],
)
def test_segments(spans: list[tuple[int, int]], expect: list[str]) -> None:
    text = "a cat and a dog"
    found = segments(text, [{"start": start, "end": end} for start, end in spans])
    assert found == [Segment(one.removeprefix("*"), one.startswith("*")) for one in expect]
    assert "".join(one.text for one in found) == text


def test_empty_answer_has_no_segments() -> None:
    assert segments("", []) == []


def encoded(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def test_pictures() -> None:
    small, large, odd = (
        picture(encoded("PNG", (48, 48))),
        picture(encoded("PNG", (900, 600))),
        picture(encoded("TIFF", (200, 9))),
    )
    assert small is not None
    assert small.url.startswith("data:image/png;")
    assert small.tiny
    assert large is not None
    assert large.url.startswith("data:image/jpeg;")
    assert len(large.url) < 200_000
    assert not large.tiny
    assert odd is not None
    assert odd.url.startswith("data:image/jpeg;")
    assert picture(b"no picture") is None


def test_a_transparent_picture_is_shown_as_the_models_saw_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (200, 9)).save(buffer, "TIFF")
    shown = picture(buffer.getvalue())
    assert shown is not None
    data = base64.b64decode(shown.url.partition(",")[2])
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("seconds", "expect"),
    [(0.44, "0.4 s"), (12, "12 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7801, "2 h 10 min")],
)
def test_duration(seconds: float, expect: str) -> None:
    assert duration(seconds) == expect


def test_addresses_are_shortened() -> None:
    assert (
        shortened(f"s3://b/pairs/{'ab12' * 16}/shard-00000-of-00001")
        == "s3://b/pairs/ab12ab12ab12…/shard-00000-of-00001"
    )


def row(
    checkpoint: str, candidate: int, hallucinated: int = 0, drawn: str = "once", logp: float = -1
) -> dict[str, Any]:
    logps = {"logp": logp, "other_logp": None, "tokens": 3}
    answer = {"id": "q", "checkpoint": checkpoint, "candidate": candidate, "drawn": drawn}
    return {**answer, "hallucinated": hallucinated, **logps}


def test_answers_by_question() -> None:
    best = row("checkpoint-2", 1, drawn="ranked", logp=-0.5)
    rows = [
        row("baseline", 0),
        row("baseline", 0, drawn="ranked"),
        row("checkpoint-1", 0),
        row("checkpoint-2", 0),
        row("checkpoint-2", 0, drawn="ranked", logp=-0.9),
        row("checkpoint-2", 2, drawn="ranked", logp=-0.5),
        row("checkpoint-2", 3, drawn="ranked", logp=-0.1),
        best,
    ]
    by = reward_of({"rule": "PolicyLikelihood", "lambda": None})
    found = answers_by_question(rows, "checkpoint-2", by, 3)["q"]
    assert found == {"baseline": rows[0], "aligned": rows[3], "best_of_n": best}
    assert "best_of_n" not in answers_by_question(rows, "checkpoint-2", by, 1)["q"]


@pytest.mark.parametrize(
    ("before", "after", "expect"),
    [(1, 0, "mended"), (2, 1, "still wrong"), (0, 1, "newly wrong"), (0, 0, "right before and after")],
)
def test_kinds(before: int, after: int, expect: str) -> None:
    assert kind_of({"baseline": row("b", 0, before), "aligned": row("a", 0, after)}) == expect


def test_undefined_rates_leave_gaps_not_errors(whole: Evidence) -> None:
    nothing = {"value": None, "low": None, "high": None}
    scores = json.loads(json.dumps(whole.scores))
    ranked = scores["ranking"][0]["report"]
    for measures in (scores["aligned"], scores["checkpoints"][0]["selection"], ranked, scores["baseline"]):
        measures["response_hallucination"] = nothing
    WellFormed(render(replace(whole, scores=scores, pairs=None, training=())))


def test_where_nothing_was_ranked_there_is_no_curve(whole: Evidence) -> None:
    scores = json.loads(json.dumps(whole.scores))
    scores["ranking"] = [row for row in scores["ranking"] if row["n"] == 1]
    scores["best_of_n"] |= {"n": 1, "rule": None, "lambda": None}
    page = render(replace(whole, scores=scores))
    assert "Ranking several answers" not in page
    WellFormed(page)


def test_stage_times_and_reuse() -> None:
    shards = (Shard(uri="u", sha256="0" * 64, counts={"rows": 2}, reused=True), Shard(uri="v", sha256="1" * 64))
    stage = StageRecord(name="sampling", state="Done", shards=shards)
    assert stage.ran
    assert stage.seconds == 0.0
    assert stage.count("rows") == 2
    assert not StageRecord(name="pairing", state="Waiting").ran
    assert StageRecord(name="pairing", state="Failed").ran


def test_iteration_that_cannot_be_read_names_file_and_field(tmp_path: Path) -> None:
    file = tmp_path / "iteration.json"
    with pytest.raises(BadInput, match=r"cannot read the iteration .*iteration.json: No such file"):
        Iteration.read(file)
    stage = {"name": "sampling", "state": "Done", "startTime": "2026-01-01T00:00:00"}
    file.write_text(json.dumps({"metadata": {"name": "it"}, "status": {"stages": [stage]}}))
    with pytest.raises(BadInput, match=r"status.stages.0.startTime: .* has no time zone"):
        Iteration.read(file)
    file.write_text('{"metadata": {}}')
    with pytest.raises(BadInput, match=r"iteration.json is not an iteration with its status: metadata.name"):
        Iteration.read(file)
