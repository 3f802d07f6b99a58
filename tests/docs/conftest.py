"""Runs of a page's code draw no figures and probe no features: tests of reports do."""

from bare_runs import bare_runs

__all__ = ["bare_runs"]
