"""Where artifacts, models and data sets live, on S3, on a hub or on a disk. Knows the rows; no stage, no torch."""
