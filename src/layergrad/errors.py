"""The one exception that reaches a user as a message instead of a traceback."""


class UserError(Exception):
    """Something the user can fix: says what was wrong, where, and what to do.

    The command line prints the message alone and exits with status 1; every other exception is a
    defect of the program and keeps its traceback.
    """
