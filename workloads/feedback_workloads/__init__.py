"""The data plane: what runs inside the pods of a feedback iteration."""
