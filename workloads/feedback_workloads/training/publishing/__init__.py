"""What leaves the processes that train, and how they go on from it."""
