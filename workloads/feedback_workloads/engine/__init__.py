"""vLLM: generation, yes/no scoring, log-probabilities."""

from feedback_workloads.engine.engine import Answer, Draw, Engine, Prompt, Verdict

__all__ = ["Answer", "Draw", "Engine", "Prompt", "Verdict"]
