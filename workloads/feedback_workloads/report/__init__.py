"""What a run leaves for people: summary.json and report.html."""
