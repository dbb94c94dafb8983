"""Training of the detector and the forecaster, and their metrics (torch)."""
