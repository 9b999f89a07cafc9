"""vLLM: generation, yes/no scoring, log-probabilities."""

from feedback_workloads.engine.arguments import card_memory, check_quantized
from feedback_workloads.engine.engine import Draw, Engine, Sampled, Verdict
from feedback_workloads.models.family import Prompt

__all__ = ["Draw", "Engine", "Prompt", "Sampled", "Verdict", "card_memory", "check_quantized"]
