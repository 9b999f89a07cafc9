"""The benchmark of the synthetic shapes world: sentences about places, against the scene that was drawn."""

from __future__ import annotations

from feedback_workloads.contract import BadInput
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.shapes import truth as shapes_truth


class ShapesBenchmark:
    """Judges answers by the objects they name and the places they put them."""

    def judge(self, answer: str, truth: str) -> Judgement:
        try:
            found = shapes_truth.judge(answer, truth)
        except BadInput as error:
            raise BadRow("bad-truth", str(error)) from error
        return Judgement(
            mentions=len(found.mentions),
            hallucinated=len(found.hallucinated),
            covered=found.covered,
            truth_total=found.objects,
            expected=found.expected,
            expected_covered=found.expected_covered,
            spans=tuple((mention.start, mention.end) for mention in found.hallucinated),
        )
