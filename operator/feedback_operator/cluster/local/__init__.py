"""This machine: Jobs as processes, an S3 server beside them."""
