"""Weight files of every format, read as data: nothing in them is executed."""
