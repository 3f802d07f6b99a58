"""Settings of runs: from flags to one frozen config, without JAX."""
