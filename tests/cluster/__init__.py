"""A whole Kubernetes control plane on this machine, with pods that are played instead of run."""
