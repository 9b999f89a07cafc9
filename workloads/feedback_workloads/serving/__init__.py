"""The best-of-N server."""
