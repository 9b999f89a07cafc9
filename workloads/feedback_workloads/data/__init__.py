"""`feedback data`: public data sets made ours, mixed, shown, and our pairs made others'."""
