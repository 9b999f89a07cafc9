"""What may come in: how many requests, how many bytes, which pictures."""
