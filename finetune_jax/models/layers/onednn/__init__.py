"""Convolutions of oneDNN in JAX programs on CPU: the library, XLA's calls into it, and functions with gradients."""
