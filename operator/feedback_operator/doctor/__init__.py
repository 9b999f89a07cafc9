"""What an iteration needs of a cluster, and whether it is there: facts in, findings out. `cli` reads the facts."""
