"""What may be asked of the server and what it answers, one module a family of calls; `parts` is what they share."""
