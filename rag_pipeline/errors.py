"""What a user can do something about. Anything else that is raised is a defect and keeps its traceback.

The message is one sentence or two that name the thing, the cause and the next step. The subclasses say who has to
act: `exit_code` is what the command line ends with, and the API answers by the same classes.
"""


class ExpectedError(Exception):
    """Something failed outside our code: a server, a file, a model, a setting."""

    exit_code = 1


class MisuseError(ExpectedError):
    """What was asked for cannot be asked like that; nothing was done."""

    exit_code = 2


class RefusedError(ExpectedError):
    """A gate said no; what stands goes on as it was."""

    exit_code = 3


class MissingError(ExpectedError, LookupError):
    """What was named does not exist, or not any more."""
