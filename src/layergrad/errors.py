"""The one exception that reaches a user as a message, and how others are quoted."""


class UserError(Exception):
    """Something the user can fix: says what was wrong, where, and what to do.

    The command line prints the message alone and exits with status 1; every other exception is a
    defect of the program and keeps its traceback.
    """


def one_line(error: Exception) -> str:
    """Return an error's own message on one line, its first 300 characters."""
    return " ".join(str(error).split())[:300]
