"""What keeps the operator running: handlers, workers, telemetry."""
