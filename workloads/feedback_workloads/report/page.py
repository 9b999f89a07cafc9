"""report.html: one file that needs no network. Answers and names are untrusted text and are escaped by the template."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from feedback_workloads.models.pictures import load_picture
from feedback_workloads.report import charts
from feedback_workloads.report.cost import api_words
from feedback_workloads.report.evidence import Claim, Evidence, Example, Kind, Row, ranked_words
from feedback_workloads.report.series import counted, csv_url
from feedback_workloads.report.summary import (
    MEASURES,
    cell,
    change,
    columns,
    drawn,
    labeler,
    measured,
    on_baseline,
    paired,
    served,
)
from feedback_workloads.rows.rejected import BadRow

Figured = Mapping[str, float | None] | float
"""A rate with its interval, or a length."""

SHOWN_PIXELS: Final = 480  # longest side of an example picture; larger ones are made smaller
EMBEDDED_BYTES: Final = 60_000  # a larger picture file is encoded again
EMBEDDED_KINDS: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})  # what every browser shows
TINY_PIXELS: Final = 128
KINDS: Final[Mapping[Kind, str]] = {
    "mended": "wrong before, right now",
    "still wrong": "wrong before and now",
    "newly wrong": "right before, wrong now",
    "right before and after": "right before and now",
}


@dataclass(frozen=True)
class Segment:
    """A run of an answer's text, all of it hallucinated or none."""

    text: str
    hallucinated: bool


@dataclass(frozen=True)
class Picture:
    """A picture as a data URL; a tiny one is shown with hard pixels."""

    url: str
    tiny: bool


@dataclass(frozen=True)
class Figure:
    """A chart, what it shows, and its numbers as a URL of CSV."""

    title: str
    svg: Markup
    caption: str
    csv: str


def render(evidence: Evidence) -> str:
    """The whole page."""
    scores = evidence.scores or evidence.alone
    return template("page.html").render(
        iteration=evidence.iteration,
        missing=evidence.missing,
        scores=evidence.scores,
        measures=measured(scores) if scores else {},
        columns=columns(scores) if scores else {},
        others={
            name: (measured(other), columns(other)) for name, other in (scores["others"] if scores else {}).items()
        },
        alone=evidence.alone,
        ranked_words=ranked_words(evidence.scores["best_of_n"]) if evidence.scores else "",
        headline=headline(evidence.scores) if evidence.scores else None,
        paired=paired(evidence.examples.difference),
        served=served(evidence.scores) if evidence.scores else None,
        ending=evidence.iteration.ending,
        result_figures=_result_figures(evidence.scores) if evidence.scores else [],
        training_figures=_training_figures(evidence.training, evidence.scores),
        pairs=evidence.pairs,
        pair_figures=_pair_figures(evidence.pairs) if evidence.pairs else [],
        pair_examples=[(one, [picture(image) for image in one.images]) for one in evidence.pair_examples],
        kinds=KINDS,
        numbers=evidence.examples.numbers,
        examples=[example(one, evidence.examples.best_of) for one in evidence.examples.shown],
        stages=evidence.iteration.status.stages,
        versions=[f"{package} {' and '.join(of)}" for package, of in evidence.versions.items()],
        api_usage=[words for stage in evidence.iteration.status.stages if (words := api_words(stage))],
        manifest=yaml.safe_dump(evidence.iteration.manifest, sort_keys=False, allow_unicode=True, width=100),
    )


def template(name: str, room: str = "feedback_workloads.report") -> Template:
    """A template of that room, which may build on those of this folder; what it is given is untrusted, and escaped."""
    return _environment(room).get_template(name)


@cache
def _environment(room: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room, "."), PackageLoader("feedback_workloads.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": cell,
        "drawn": drawn,
        "judged": judged,
        "duration": duration,
        "shortened": shortened,
        "thousands": "{:,}".format,
    }
    return environment


def headline(scores: Row) -> list[dict[str, str]]:
    """One card for each measure: aligned value, where it came from, whether that is better."""
    return [
        {
            **card(name, scores["baseline"][name], scores["aligned"][name]),
            "ranked": _shown(name, _value(scores["best_of_n"][name])),
        }
        for name in measured(scores)
    ]


def card(name: str, before: Figured, after: Figured) -> dict[str, str]:
    """A measure before and after, and whether that is better."""
    was, became = _value(before), _value(after)
    return {
        "name": MEASURES[name],
        "before": _shown(name, was),
        "after": _shown(name, became),
        "change": change(was, became),
        "tone": _tone(name, was, became),
    }


def example(one: Example, best_of: str) -> dict[str, Any]:
    """What the template shows of an example."""
    names = {"baseline": "baseline", "aligned": "aligned", "best_of_n": best_of}
    return {
        "kind": one.kind,
        "pictures": [picture(image) for image in one.images],
        "question": one.question,
        "answers": [
            {"who": name, "key": who, "segments": segments(row["answer"], row["spans"]), "tally": tally(row)}
            for who, name in names.items()
            if (row := one.answers.get(who))
        ],
    }


def judged(claim: Claim) -> str:
    """`p(yes) 0.97`, or `rejected, p(yes) 0.02`; without the probability where the labeler gave none."""
    if claim.p_yes is None:
        return "accepted" if claim.accepted else "rejected"
    return f"{'' if claim.accepted else 'rejected, '}p(yes) {claim.p_yes:.2f}"


def tally(row: Row) -> str:
    """`1 of 6 mentions not there; names 4 of 5 that are`."""
    return (
        f"{row['hallucinated']} of {row['mentions']} mentions not there; "
        f"names {row['covered']} of {row['truth_total']} that are"
    )


def segments(text: str, spans: Sequence[Mapping[str, int]]) -> list[Segment]:
    """The text cut at the spans; spans may overlap or pass its end."""
    found: list[Segment] = []
    at = 0
    for span in sorted(spans, key=lambda span: (span["start"], span["end"])):
        start, end = max(at, span["start"]), min(span["end"], len(text))
        if start >= end:
            continue
        found += [Segment(text[at:start], False)] * (at < start)
        found.append(Segment(text[start:end], True))
        at = end
    return [*found, Segment(text[at:], False)] if at < len(text) else found


def picture(data: bytes) -> Picture | None:
    """The picture for the page, made smaller where it is large; None where it cannot be read."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            kind, tiny = opened.get_format_mimetype(), max(opened.size) <= TINY_PIXELS
            if len(data) > EMBEDDED_BYTES or kind not in EMBEDDED_KINDS:
                data, kind = _smaller(load_picture(data)), "image/jpeg"
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, BadRow):
        return None
    return Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", tiny)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def shortened(uri: str) -> str:
    """An address with its content hash cut to twelve digits."""
    return re.sub(r"[0-9a-f]{64}", lambda found: f"{found[0][:12]}…", uri)


def _smaller(picture: Image.Image) -> bytes:
    picture.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _value(figure: Figured) -> float | None:
    return figure["value"] if isinstance(figure, Mapping) else figure


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if name == "mean_words" else f"{value:.1%}"


def _tone(name: str, before: float | None, after: float | None) -> str:
    if name == "mean_words" or before is None or after is None or before == after:
        return "plain"
    return "bad" if (after > before) == name.endswith("hallucination") else "good"


def _result_figures(scores: Row) -> list[Figure]:
    return _drawn(
        Figure(
            "Before and after",
            Markup(charts.measures(scores)),
            "Report split, 95% bootstrap intervals over questions.",
            csv_url([{"answers": name, **column} for name, column in columns(scores).items()]),
        ),
        Figure(
            "Ranking several answers",
            Markup(charts.ranking_curves(scores)),
            "The aligned policy draws N answers, and a rule says which is returned; all rules rank the same answers. "
            f"The server's default: {scores['best_of_rule']}",
            csv_url(scores["ranking"]),
        ),
        Figure(
            "Ranking the baseline's own answers",
            Markup(charts.baseline_curves(scores)),
            on_baseline(scores),
            csv_url(scores["reward_on_baseline"] or []),
        ),
    )


def _training_figures(log: Sequence[Row], scores: Row | None) -> list[Figure]:
    steps = "Direct preference optimisation; pale lines are single steps, strong ones their moving average."
    shown = [Figure("Loss and rewards", Markup(charts.training(log)), steps, csv_url(log))]
    if scores:
        numbers = csv_url(scores["checkpoints"])
        shown.append(Figure("Checkpoints", Markup(charts.checkpoints(scores)), scores["rule"], numbers))
    return _drawn(*shown)


def _pair_figures(pairs: Row) -> list[Figure]:
    metrics = pairs["metrics"]
    truth = ""
    if "truth_agreement" in metrics:
        truth = (
            f" The truth agrees with {metrics['truth_agreement']:.1%} of the pairs "
            f"and sees no difference in {metrics['truth_ties']:.1%}."
        )
    return _drawn(
        Figure(
            "From answers to pairs",
            Markup(charts.funnel(pairs["funnel"])),
            f"Answers in grey, pairs in blue.{truth} {labeler(metrics)}".rstrip(),
            csv_url(counted(pairs["funnel"], "step")),
        ),
        Figure(
            "How sure the labeler is",
            Markup(charts.calibration(pairs.get("calibration", ()))),
            "Claims by p(yes), in tenths, with their number, and how many are true; those in which the benchmark finds "
            "something to judge. On the dotted line, a labeler is as sure as it is right.",
            csv_url(pairs.get("calibration", ())),
        ),
        Figure(
            "Lengths",
            Markup(charts.lengths(pairs["words"])),
            "The length balance drops pairs whose rejected answer is much the longer one.",
            csv_url(
                [
                    {"pairs": step, "answers": side, **row}
                    for step, sides in pairs["words"].items()
                    for side, counts in sides.items()
                    for row in counted(counts, "words")
                ]
            ),
        ),
        Figure(
            "Scores of the answers",
            Markup(charts.score_histogram(pairs["scores"])),
            "Before they are paired.",
            csv_url(counted(pairs["scores"], "score")),
        ),
        Figure(
            "Differences in the pairs",
            Markup(charts.difference_histogram(pairs["differences"])),
            "After length balance.",
            csv_url(counted(pairs["differences"], "difference")),
        ),
    )


def _drawn(*figures: Figure) -> list[Figure]:
    return [figure for figure in figures if figure.svg]
