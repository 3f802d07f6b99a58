"""Sweeps: what is tried, who tries it, what came out."""
