"""What both tests of a guarantee publish: how large an epsilon each run showed, beside the stated one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.disk import write_json

Evidence = Callable[[int, int], dict[str, Any]]


def publish(arguments: Sequence[str], evidence: Evidence, setting: str, control: str) -> None:
    """Write what ``evidence`` returns of ``runs=N draws=N`` to ``out=FILE``, and print a line for each of its rows.

    Args:
        arguments: the words of the command.
        evidence: from runs and draws to the result, whose ``rows`` have what was ``shown`` by runs as they are and
            ``with_too_little_noise``.
        setting: a format of what a row is of, beside its epsilon.
        control: how little noise that was.
    """
    given = dict(argument.split("=", 1) for argument in arguments)
    found = evidence(int(given["runs"]), int(given["draws"]))
    write_json(Path(given["out"]), found)
    for row in found["rows"]:
        below = sum(shown <= row["epsilon"] for shown in row["shown"])
        caught = sum(shown > row["epsilon"] for shown in row["with_too_little_noise"])
        print(
            f"epsilon {row['epsilon']:g}, {setting.format(**row)}: shown {np.mean(row['shown']):.2f} (at most "
            f"{max(row['shown']):.2f}), below it in {below} of {found['runs']}; with {control} found out in {caught}"
        )
