"""The exceptions whose text a user is meant to read: one line each, printed without a traceback."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_LINE, MOST_NAMED = 500, 10


class UserError(Exception):
    """A mistake in input or surroundings: one line that names the file, field or value, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def one_line(text: str, most: int = LONGEST_LINE) -> str:
    """Return text that another machine may have written as one printable line of at most ``most`` characters."""
    text = " ".join(text[: 2 * most].split())
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return line if len(line) <= most else line[: most - 3] + "..."


def few(names: Sequence[object], most: int = MOST_NAMED) -> str:
    """Return the first ``most`` of some names as a message lists them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


class StudyFailedError(Exception):
    """A study that was set up well could not be completed; the command line exits with status 1.

    ``restart`` says whether the same run, started again, can be expected to get further (a worker died).
    """

    def __init__(self, reason: str, restart: bool = False) -> None:
        super().__init__(" ".join(reason.split()))
        self.restart = restart
