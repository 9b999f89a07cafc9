"""The stages: one file and one entry point each."""
