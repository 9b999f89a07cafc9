"""OmniLMM-12B and RLAIF-V-12B after it: the family, its network for transformers and for vLLM, and its first layout."""
