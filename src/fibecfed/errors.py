"""The two ways a run can go wrong, and the exit code each has on the command line."""


class FibecFedError(Exception):
    """A failure explained in one sentence; the command line prints it without a traceback."""

    exit_code = 1


class InputError(FibecFedError):
    """What the user gave (configuration, file, arguments) cannot be used. Exit code 2."""

    exit_code = 2


class RunFailed(FibecFedError):
    """A run started and could not be finished (NaN loss, too few replies). Exit code 1."""

    exit_code = 1
