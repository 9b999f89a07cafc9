"""The report's charts: matplotlib drawings as inline SVG in the colours of the page, so that they follow light and
dark.

Each function returns one `<svg>` element, or an empty string where there is nothing to draw.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from feedback_workloads.report.evidence import rule_words
from feedback_workloads.report.summary import measured

Row = Mapping[str, Any]
Rate = Mapping[str, float | None]

# Colours that matplotlib draws with and the page's variables that take their place.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
BASELINE, ALIGNED, BEST = "#040404", "#050505", "#060606"
CHOSEN, REJECTED, PAPER = "#070707", "#080808", "#090909"
VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    BASELINE: "--baseline",
    ALIGNED: "--aligned",
    BEST: "--best",
    CHOSEN: "--chosen",
    REJECTED: "--rejected",
    PAPER: "--paper",
}
STYLE: Final = {
    "svg.fonttype": "none",  # text stays text: small, sharp, selectable
    "svg.hashsalt": "feedback",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "text.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "none",
}
WIDTH_INCHES: Final = 4.5
RULE_STYLES: Final = ((BEST, "D-"), (CHOSEN, "o--"), (ALIGNED, "s-"), (REJECTED, "^-."), (BASELINE, "v-"))
"""Colour and line of each ranking rule, in the order of the rules."""
PERCENT: Final = FuncFormatter(lambda value, _: f"{100 * value:g}%")


def measures(scores: Row) -> str:
    """Each rate of baseline, aligned and best-of-N with its interval, one below the other."""
    named = {
        "response_hallucination": "Answers with a\nhallucination",
        "mention_hallucination": "Hallucinated\nmentions",
        "recall": "Recall",
        "expected_recall": "Recall of\nexpected things",
        "accuracy": "Accuracy",
        "f1": "F1",
    }
    rates = [(name, words) for name, words in named.items() if name in measured(scores)]
    who = [
        ("baseline", "baseline", BASELINE, "o"),
        ("aligned", "aligned", ALIGNED, "s"),
        ("best_of_n", f"best of {scores['best_of_n']['n']}", BEST, "D"),
    ][: 2 + (scores["best_of_n"]["n"] > 1)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (rate, _) in enumerate(rates):
            for offset, (key, label, color, marker) in zip((-0.24, 0.0, 0.24), who, strict=False):
                figures: Rate = scores[key][rate]
                if figures["value"] is None:
                    continue
                y = row + offset
                interval = [figures["low"], figures["high"]]
                axes.plot(interval, [y, y], "|-", color=color, linewidth=1.6, markersize=7, clip_on=False)
                axes.plot(figures["value"], y, marker, color=color, label=label if row == 0 else None, clip_on=False)
                axes.annotate(
                    f"{100 * figures['value']:.1f}%", (figures["high"], y), (5, 0), textcoords="offset points",
                    va="center", fontsize=8, color=INK,
                )  # fmt: skip
        axes.set_yticks(range(len(rates)), [name for _, name in rates], color=INK)
        axes.set_ylim(len(rates) - 0.5, -0.5)
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        _legend(figure, axes)

    return _svg(
        "measures", 0.5 + 0.8 * len(rates), draw, "Rates of baseline, aligned and best-of-N answers with 95% intervals"
    )


def ranking_curves(scores: Row) -> str:
    """What ranking the aligned policy's answers gives, by their number."""
    return _curves("ranking", scores, scores["ranking"], "aligned", "For each rule, by the number of answers ranked")


def baseline_curves(scores: Row) -> str:
    """What ranking the baseline's own answers gives, by their number: by the aligned policy, and by the baseline."""
    rows = scores["reward_on_baseline"] or []
    return _curves("on-baseline", scores, rows, "baseline", "The baseline's answers, by the number of them ranked")


def _curves(name: str, scores: Row, rows: Sequence[Row], once: str, label: str) -> str:
    """Hallucination, recall and length by the number of answers ranked, a line a rule; of `Regularised`, one weight.

    `once` names the column of `scores` whose one answer is a dotted line.
    """
    weights = [row["lambda"] for row in rows if row["lambda"] is not None]
    best = scores["best_of_n"]["lambda"]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["lambda"] in (None, next(iter(weights), None) if best is None else best):
            lines.setdefault(rule_words(row), []).append(row)
    numbers = sorted({row["n"] for row in rows})
    if len(numbers) < 2:
        return ""
    panels = [
        ("response_hallucination", "answers with a\nhallucination"),
        ("recall", "recall"),
        ("expected_recall", "recall of\nexpected things"),
        ("accuracy", "accuracy"),
        ("f1", "F1"),
        ("mean_words", "words"),
    ]
    panels = [(name, words) for name, words in panels if name in measured(scores)]

    def value(figures: Row, measure: str) -> float | None:
        figure: float | Rate = figures[measure]
        return figure["value"] if isinstance(figure, Mapping) else figure

    def draw(figure: Figure) -> None:
        for axes, (measure, words) in zip(figure.subplots(len(panels), 1, sharex=True), panels, strict=True):
            alone = value(scores[once], measure)
            if alone is not None:
                axes.axhline(alone, color=MUTED, linewidth=1.4, linestyle=":", label="one answer")
            for (rule, ranked), (color, style) in zip(lines.items(), RULE_STYLES, strict=False):
                values = [value(row["report"], measure) for row in ranked]
                axes.plot([row["n"] for row in ranked], values, style, color=color, label=rule)
            axes.set_ylabel(words)
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers, [str(n) for n in numbers])
            axes.minorticks_off()
            if measure != "mean_words":
                axes.yaxis.set_major_formatter(PERCENT)
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("N, answers ranked")
        _legend(figure, figure.axes[0], columns=2)

    return _svg(name, 1 + 1.3 * len(panels), draw, f"Hallucination, recall and length: {label}")


def checkpoints(scores: Row) -> str:
    """Response-level hallucination and recall of every checkpoint on both splits; the chosen one ringed."""
    rows = sorted(scores["checkpoints"], key=lambda one: one["step"])
    if not rows:
        return ""
    selected = next(one for one in rows if one["selected"])
    steps = [one["step"] for one in rows]
    words = {"response_hallucination": "answers with a\nhallucination", "recall": "recall", "accuracy": "accuracy"}
    first, second = ("response_hallucination", "recall") if "recall" in measured(scores) else ("accuracy", "accuracy")

    def values(split: str, rate: str) -> list[float]:
        found = [one[split][rate]["value"] for one in rows]
        return [float("nan") if value is None else value for value in found]

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        for axes, rate in ((above, first), (below, second)):
            _baseline(axes, scores["baseline"][rate])
            axes.plot(steps, values("selection", rate), "o--", color=MUTED, label="selection split")
            axes.plot(steps, values("report", rate), "s-", color=ALIGNED, label="report split")
            value = selected["selection"][rate]["value"]
            if value is not None:
                axes.plot(selected["step"], value, "o", ms=11, mfc="none", mec=BEST, mew=1.8, label="chosen")
            _rate_axis(axes)
        above.set_ylabel(words[first])
        below.set_ylabel(words[second])
        recalls = [*values("selection", second), *values("report", second)]
        below.set_ylim(_around([*recalls, scores["baseline"][second]["value"]]))
        below.set_xlabel("optimizer step")
        below.xaxis.set_major_locator(FixedLocator(steps, nbins=6))
        _legend(figure, above)

    return _svg("checkpoints", 3.6, draw, "Hallucination and recall of every checkpoint on both splits")


def chain(policies: Sequence[Row | None], kept: int | None, number: int) -> str:
    """Each rate with its 95% interval from the policy before the first iteration (0) on; where one has none is a gap.

    `kept` is the place of the policy that is kept, ringed; `number` is that of the chain in its page.
    """
    titles = {
        "response_hallucination": "answers with a\nhallucination",
        "mention_hallucination": "hallucinated\nmentions",
        "recall": "recall",
        "expected_recall": "expected\nrecall",
        "accuracy": "accuracy",
        "f1": "F1",
    }
    known: dict[str, dict[int, Rate]] = {
        name: {
            place: rate
            for place, policy in enumerate(policies)
            if policy and (rate := policy.get(name)) and None not in rate.values()
        }
        for name in titles
    }
    panels = {name: rates for name, rates in known.items() if len(rates) > 1}
    if not panels:
        return ""

    def draw(figure: Figure) -> None:
        rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (name, rates) in zip(rows, panels.items(), strict=True):
            for place, rate in rates.items():
                axes.plot([place, place], [rate["low"], rate["high"]], "|-", color=ALIGNED, linewidth=1.2, alpha=0.6)
            values = [rates[place]["value"] if place in rates else float("nan") for place in range(len(policies))]
            axes.plot(range(len(policies)), values, "s-", color=ALIGNED)
            if kept in rates:
                axes.plot(kept, values[kept], "o", ms=11, mfc="none", mec=BEST, mew=1.8, label="kept")
            axes.set_ylabel(titles[name])
            axes.yaxis.set_major_formatter(PERCENT)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="x", visible=False)
        rows[-1].set_xlim(-0.3, len(policies) - 0.7)
        rows[-1].set_xticks(range(len(policies)))
        rows[-1].set_xlabel("iteration of the chain; 0 is the policy before it")
        if kept in panels[next(iter(panels))]:
            _legend(figure, rows[0])

    return _svg(f"chain-{number}", 0.7 + 1.1 * len(panels), draw, "Hallucination and recall over a chain's iterations")


def training(log: Sequence[Row]) -> str:
    """Loss, by how much and how often the chosen side is rewarded more, and what moved the weights, by step."""
    panels = [
        ("loss", "loss"),
        ("reward_margin", "reward margin"),
        ("accuracy", "accuracy"),
        ("grad_norm", "gradient\nnorm"),
        ("learning_rate", "learning\nrate"),
    ]
    found = [(key, name, [(row["step"], row[key]) for row in log if key in row]) for key, name in panels]
    shown = [(key, name, points) for key, name, points in found if points]
    if not shown:
        return ""

    def draw(figure: Figure) -> None:
        rows = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
        for axes, (key, name, points) in zip(rows, shown, strict=True):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=ALIGNED, linewidth=1, alpha=0.35)
            axes.plot(steps, _smooth(values), color=ALIGNED)
            axes.set_ylabel(name)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if key == "accuracy":
                axes.yaxis.set_major_formatter(PERCENT)
                axes.set_ylim(0, 1.05)
        rows[-1].set_xlabel("optimizer step")
        rows[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return _svg("training", 0.6 + 1.0 * len(shown), draw, "Training curves by optimizer step")


def funnel(counts: Mapping[str, int]) -> str:
    """How many answers were scored and how many pairs were left at each step."""
    steps = [
        ("published", "pairs made elsewhere", BASELINE),
        ("candidates", "answers sampled", BASELINE),
        ("scored", "answers scored", BASELINE),
        ("combinations", "possible pairs", ALIGNED),
        ("drawn", "pairs drawn", ALIGNED),
        ("balanced", "pairs to train on", ALIGNED),
    ]
    steps = [step for step in steps if step[0] in counts]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, (key, _, color) in enumerate(steps):
            axes.barh(y, counts[key], height=0.62, color=color)
            axes.annotate(f"{counts[key]:,}", (counts[key], y), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(steps)), [name for _, name, _ in steps], color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.16 * max(1, *(counts[key] for key, _, _ in steps)))
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)

    return _svg("funnel", 2.6, draw, "Answers and pairs left after each step")


def lengths(words: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Lengths of chosen and rejected answers before and after the length balance, or of pairs made elsewhere."""
    names = {"drawn": "before balance", "balanced": "after balance"}
    steps = {step: name for step, name in names.items() if step in words}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(steps), sharex=True, squeeze=False)[:, 0]
        for axes, (step, name) in zip(panels, steps.items(), strict=True):
            for side, color, style in (("chosen", CHOSEN, "-"), ("rejected", REJECTED, "--")):
                counts = {int(value): count for value, count in words[step][side].items()}
                total = sum(counts.values())
                low, high = min(counts), max(counts)
                values = [counts.get(value, 0) / total for value in range(low, high + 1)]
                edges = [value - 0.5 for value in range(low, high + 2)]
                axes.stairs(values, edges, color=color, fill=True, alpha=0.18, linewidth=0)
                axes.stairs(values, edges, color=color, linewidth=1.6, linestyle=style, label=side)
                mean = sum(value * count for value, count in counts.items()) / total
                axes.axvline(mean, color=color, linewidth=1, linestyle=style)
            axes.set_ylabel(name)
            axes.yaxis.set_major_formatter(PERCENT)
            axes.yaxis.set_major_locator(MaxNLocator(3))
        panels[-1].set_xlabel("words; vertical lines are the means")
        _legend(figure, panels[0])

    return _svg("lengths", 3.2, draw, "Lengths of chosen and rejected answers before and after the length balance")


def score_histogram(scores: Mapping[str, int]) -> str:
    """How many answers have which score."""
    return _bars("scores", scores, "score: minus the number of rejected claims", "answers", "Answers by score")


def calibration(tenths: Sequence[Row]) -> str:
    """How many of the claims are true among those to which the labeler gives which p(yes)."""
    if not tenths:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1.2)
        axes.plot(
            [row["p_yes"] for row in tenths],
            [row["true"] / row["claims"] for row in tenths],
            "s-", color=ALIGNED, clip_on=False,
        )  # fmt: skip
        for row in tenths:
            share = row["true"] / row["claims"]
            axes.annotate(
                f"{row['claims']:,}", (row["p_yes"], share), (0, 6 if share < 0.9 else -13), ha="center",
                textcoords="offset points", fontsize=8, color=INK,
            )  # fmt: skip
        axes.set_xlabel("p(yes)")
        axes.set_ylabel("true claims")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PERCENT)

    return _svg("calibration", 3.2, draw, "Share of true claims by the labeler's probability of yes")


def difference_histogram(differences: Mapping[str, int]) -> str:
    """How many pairs have which difference of scores."""
    return _bars(
        "differences", differences, "score of the chosen minus the rejected", "pairs", "Pairs by difference of scores"
    )


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _svg(name: str, height: float, draw: Callable[[Figure], None], label: str) -> str:
    """Draw on a figure of `height` inches and return it as an SVG element that scales to its place."""
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), label)


def _inline(document: str, label: str) -> str:
    """The `<svg>` element alone: accessible, in the page's font and colours, without ids that would clash."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font: \1px var(--font)", element)
    head = re.match(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', element)
    if head is None:
        raise ValueError(f"matplotlib drew no SVG with a viewBox for {label!r}")
    element = f'<svg viewBox="{head[1]}" role="img" aria-label="{label}">{element[head.end() :]}'
    for color, variable in VARIABLES.items():
        element = element.replace(color, f"var({variable})")
    return element.strip()


def _bars(name: str, counts: Mapping[str, int], x: str, y: str, label: str) -> str:
    """One bar for each whole number."""
    if not counts:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        bars = axes.bar([int(value) for value in counts], list(counts.values()), width=0.72, color=ALIGNED)
        axes.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=2, fontsize=8)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(y=0.12)
        axes.grid(axis="x", visible=False)

    return _svg(name, 2.6, draw, label)


def _legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2, handletextpad=0.5, borderpad=0.1
    )


def _rate_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(bottom=0)


def _baseline(axes: Axes, rate: Rate) -> None:
    if rate["value"] is not None:
        axes.axhline(rate["value"], color=BASELINE, linewidth=1.4, linestyle=":", label="baseline")


def _around(values: Sequence[float | None]) -> tuple[float, float]:
    """Limits that show small differences: a little more than the range of what is known."""
    known = [value for value in values if value is not None and not math.isnan(value)] or [0.0, 1.0]
    margin = max(0.02, 0.15 * (max(known) - min(known)))
    return max(0.0, min(known) - margin), min(1.0, max(known) + margin)


def _smooth(values: Sequence[float], weight: float = 0.85) -> list[float]:
    """Exponential moving average without the bias of its start."""
    smoothed: list[float] = []
    total = norm = 0.0
    for value in values:
        total, norm = weight * total + value, weight * norm + 1
        smoothed.append(total / norm)
    return smoothed
