"""The flags of a Hydra application: those that it knows, before its overrides; Hydra wants them apart."""

from __future__ import annotations

from collections.abc import Sequence

from fedkr.config import nearest
from fedkr.errors import UserError

# Left out is what reads a pickle (--experimental-rerun).
SWITCHES = (
    "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m", "--shell-completion",
    "-sc", "--info", "-i",
)  # fmt: skip
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
SWEEP = ("--multirun", "-m")
PARTS = ("job", "hydra", "all")


def flags_apart(arguments: Sequence[str], own: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the flags, with their values, and the overrides of a command line, each in their order.

    ``own`` flags of the command are left out.

    Raises:
        UserError: a flag that there is not, or one without its value.
    """
    flags: list[str] = []
    overrides: list[str] = []
    left = iter(arguments)
    for argument in left:
        name, given, value = argument.partition("=")
        if not argument.startswith("-"):
            overrides.append(argument)
        elif name in WITH_VALUE:
            flags += _with_value(name, value if given else next(left, ""))
        elif argument in own:
            continue
        elif argument in SWITCHES:
            flags.append(argument)
        else:
            raise UserError(f"{argument}: {_no_such(name, own)}")
    return flags, overrides


def without_showing(flags: Sequence[str]) -> tuple[list[str], str] | None:
    """Return flags without those that ask for the composed study (``--cfg job``), and the part of it that is asked for.

    None where they do not ask for it. A part (``--package student``) is "" where all of the study is asked for. Hydra
    would show what it composed, before the rule writes its numbers out and contestants' files are read. Flags that
    exclude each other are left for Hydra to refuse.
    """
    left = [flag for flag in flags if flag != "--resolve"]
    part, shown = _taken(left, "--package", "-p"), _taken(left, "--cfg", "-c")
    return None if shown != "job" or any(switch in left for switch in SWITCHES) else (left, part)


def _taken(flags: list[str], *names: str) -> str:
    """Take a flag with its value out of the list; return the value, the last where it is there more than once."""
    value = ""
    while place := next((place for place, flag in enumerate(flags, 1) if flag in names), 0):
        value = flags[place]
        del flags[place - 1 : place + 1]
    return value


def _with_value(name: str, value: str) -> list[str]:
    if not value or (name in ("--cfg", "-c") and value not in PARTS):
        what = f"one of: {', '.join(PARTS)}" if name in ("--cfg", "-c") else "a value"
        raise UserError(f"{name} {value}".rstrip() + f": expected {what}")
    return [name, value]


def _no_such(name: str, own: Sequence[str]) -> str:
    known = (flag for flag in (*SWITCHES, *WITH_VALUE, *own) if flag.startswith("--"))
    return f"no such flag{nearest(name, known)}; an option is written without dashes, as in seed=1"
