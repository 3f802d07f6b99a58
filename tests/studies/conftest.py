"""Runs in one process draw no figures and probe no features, unless a module asks for them."""

from bare_runs import bare_runs

__all__ = ["bare_runs"]
