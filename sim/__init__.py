"""PyBullet worlds, traffic, cameras, labels and Gymnasium tasks."""
