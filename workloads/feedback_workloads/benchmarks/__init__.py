"""Hallucination benchmarks, one file each, behind two protocols.

Those by which stages judge one answer at a time (`method.judgement.Benchmark`), and public ones, which are judged from
files of answers (`official.Official`).
"""

from __future__ import annotations

from typing import Literal

from feedback_workloads.benchmarks.official import Official
from feedback_workloads.contract import BenchmarkType
from feedback_workloads.method.judgement import Benchmark

OfficialName = Literal["chair", "object-halbench", "amber", "pope", "mmhal"]


def benchmark(kind: BenchmarkType) -> Benchmark:
    """The benchmark of that type; loads no other."""
    match kind:
        case "shapes":
            from feedback_workloads.benchmarks.shapes import ShapesBenchmark

            return ShapesBenchmark()
        case "coco-objects":
            from feedback_workloads.benchmarks.coco_objects import CocoObjects

            return CocoObjects()


def official(name: OfficialName) -> Official:
    """The public benchmark of that name; loads no other."""
    match name:
        case "chair":
            from feedback_workloads.benchmarks.chair import Chair

            return Chair()
        case "object-halbench":
            from feedback_workloads.benchmarks.object_halbench import ObjectHalBench

            return ObjectHalBench()
        case "amber":
            from feedback_workloads.benchmarks.amber import Amber

            return Amber()
        case "pope":
            from feedback_workloads.benchmarks.pope import Pope

            return Pope()
        case "mmhal":
            from feedback_workloads.benchmarks.mmhal import MMHal

            return MMHal()
