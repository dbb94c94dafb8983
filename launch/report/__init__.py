"""Report, video and live view of a run."""
