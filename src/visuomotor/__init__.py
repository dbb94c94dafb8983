"""visuomotor: perception, prediction and learned control over ZeroMQ, from simulation to the vehicle."""

__version__ = "0.1.0"
