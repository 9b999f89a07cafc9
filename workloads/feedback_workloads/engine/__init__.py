"""vLLM: generation, yes/no scoring, log-probabilities."""

from feedback_workloads.engine.engine import Answer, Draw, Engine, Verdict
from feedback_workloads.preprocess import Prompt

__all__ = ["Answer", "Draw", "Engine", "Prompt", "Verdict"]
