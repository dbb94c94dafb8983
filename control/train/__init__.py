"""Training of policies (stable-baselines3)."""
