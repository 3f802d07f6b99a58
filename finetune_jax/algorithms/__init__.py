"""The papers and their kin as pure functions: arrays and pytrees in, arrays and pytrees out."""
