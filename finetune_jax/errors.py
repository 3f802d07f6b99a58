"""The one kind of error a user can mend, kept apart from defects of the program."""


class UserError(Exception):
    """Bad input: a flag, a file, a data set or a checkpoint.

    The message is one sentence or a short list that names the flag or file and says what to do. Binaries
    print it without a traceback and exit with status 1.
    """
