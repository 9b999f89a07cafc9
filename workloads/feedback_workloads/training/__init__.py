"""DPO with TRL and DeepSpeed."""
