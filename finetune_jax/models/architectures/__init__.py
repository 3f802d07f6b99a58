"""Architectures as block sequences, one file per family."""
