"""Layers that networks are built of, and their fast forms on CPU."""
