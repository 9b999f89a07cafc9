"""What should happen, given what is: pure. Snapshot and time in, plan and status out."""
