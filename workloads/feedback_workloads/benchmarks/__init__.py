"""Hallucination benchmarks, one file each, behind two protocols.

Those by which stages judge one answer at a time (`method.judgement.Benchmark`), and public ones, which are judged from
files of answers (`official.Official`). Some are both.
"""

from __future__ import annotations

from typing import Literal

from feedback_workloads.benchmarks.official import Official
from feedback_workloads.contract import BenchmarkType, WordRule
from feedback_workloads.method.judgement import Benchmark

OfficialName = Literal["chair", "object-halbench", "amber", "pope", "mmhal", "mmstar", "refomb", "mhumaneval"]


def benchmark(kind: BenchmarkType, words: WordRule | None = None) -> Benchmark:
    """The benchmark of that type; loads no other. `words` is the rule of `chair`."""
    found: Benchmark
    match kind:
        case "shapes":
            from feedback_workloads.benchmarks.shapes import ShapesBenchmark

            found = ShapesBenchmark()
        case "coco-objects":
            from feedback_workloads.benchmarks.coco_objects import CocoObjects

            found = CocoObjects()
        case "chair":
            from feedback_workloads.benchmarks.chair import Chair

            found = Chair(words=words or "pos")
        case "pope":
            from feedback_workloads.benchmarks.pope import Pope

            found = Pope()
        case "amber":
            from feedback_workloads.benchmarks.amber import Amber

            found = Amber()
        case "mmstar":
            from feedback_workloads.benchmarks.mmstar import MMStar

            found = MMStar()
    return found


def official(name: OfficialName) -> Official:
    """The public benchmark of that name; loads no other."""
    found: Official
    match name:
        case "chair":
            from feedback_workloads.benchmarks.chair import Chair

            found = Chair()
        case "object-halbench":
            from feedback_workloads.benchmarks.object_halbench import ObjectHalBench

            found = ObjectHalBench()
        case "amber":
            from feedback_workloads.benchmarks.amber import Amber

            found = Amber()
        case "pope":
            from feedback_workloads.benchmarks.pope import Pope

            found = Pope()
        case "mmhal":
            from feedback_workloads.benchmarks.mmhal import MMHal

            found = MMHal()
        case "mmstar":
            from feedback_workloads.benchmarks.mmstar import MMStar

            found = MMStar()
        case "refomb":
            from feedback_workloads.benchmarks.refomb import RefoMB

            found = RefoMB()
        case "mhumaneval":
            from feedback_workloads.benchmarks.mhumaneval import MHumanEval

            found = MHumanEval()
    return found
