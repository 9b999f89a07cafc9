"""A synthetic world with known truth, small enough that a CPU runs a whole iteration on it."""
