"""What a run leaves for people: summary.json of an iteration, run.json of several, and a page of either."""
