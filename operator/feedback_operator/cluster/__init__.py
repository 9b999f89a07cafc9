"""Where Jobs run: a Kubernetes cluster, or this machine."""
