"""Commands: one file each, from flags to one config to one call."""
