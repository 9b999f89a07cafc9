"""Hallucination benchmarks, one file each, behind one protocol."""

from __future__ import annotations

from feedback_workloads.contract import BenchmarkType
from feedback_workloads.method.judgement import Benchmark


def benchmark(kind: BenchmarkType) -> Benchmark:
    """The benchmark of that type; loads no other."""
    match kind:
        case "shapes":
            from feedback_workloads.benchmarks.shapes import ShapesBenchmark

            return ShapesBenchmark()
        case "coco-objects":
            from feedback_workloads.benchmarks.coco_objects import CocoObjects

            return CocoObjects()
