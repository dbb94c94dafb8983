"""Recording and replaying of runs."""
