"""RLAIF-V itself, to be read beside the paper: splitting, scoring, pairing, ranking, choosing. No torch, no I/O."""
