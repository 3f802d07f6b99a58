"""What ends a run without being a defect of the program: bad input, being pruned, being asked to stop."""


class UserError(Exception):
    """Bad input: a flag, a file, a data set or a checkpoint.

    The message is one sentence or a short list that names the flag or file and says what to do. Binaries
    print it without a traceback and exit with status 1.
    """


class Diverged(UserError):
    """Losses or weights are no longer finite: the learning rates were too high, or the images are bad."""


class Pruned(Exception):
    """A sweep has ended the run, which does worse than others did; its state is saved."""


class Stopped(Exception):
    """The run was asked to stop (SIGTERM) and has saved its state; the same flags go on with it."""
