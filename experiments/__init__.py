"""Binaries: ``python -m experiments.NAME --flags…``."""
