"""Ratios against the best alternatives, each measured in one run: `make bench`."""
