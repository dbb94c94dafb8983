"""Real cameras and actuators at the ends of the graph."""
