"""Experiment trackers that are told of a run beside its own files, each in a module of its own behind one protocol."""
