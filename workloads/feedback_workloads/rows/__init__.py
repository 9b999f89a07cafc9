"""The rows that stages exchange, and the instructions that people bring. Knows the contract alone."""
