"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake in input or surroundings: one line that names the file, field or value, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """
