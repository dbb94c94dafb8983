"""The arm: its geometry and limits, what its policy sees and does, its guard and its baseline."""
