"""Hallucination benchmarks, one file each, behind one protocol."""
