"""Models composed of two copies of a network."""
