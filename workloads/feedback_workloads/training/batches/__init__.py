"""From pairs to the tensors of a batch."""
