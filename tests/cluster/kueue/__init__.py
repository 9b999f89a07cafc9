"""A real Kueue beside the tests' control plane: built from its Go module, installed from the module's own manifests."""
