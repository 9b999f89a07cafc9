"""vLLM: generation, yes/no scoring, log-probabilities."""
