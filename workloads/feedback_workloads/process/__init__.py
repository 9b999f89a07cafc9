"""What every process of ours has around its work: progress, outcome, end, versions. Knows the contract alone."""
