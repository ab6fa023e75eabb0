"""The Hydra application behind ``fedkr simulate``: composes one study, or a sweep of them, and runs each in turn."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fedkr.config import Study, explained, nearest
from fedkr.errors import UserError
from server.composition import CONFIG_MODULE, CONFIG_NAME, one_line_errors, register_schema, study_from_config
from server.overrides import with_texts
from simulations.exits import tell_failure
from simulations.study.flags import SWEEP, flags_apart, without_showing

PROGRAM = "fedkr simulate"


def main(arguments: Sequence[str]) -> int:
    """Run the application on command-line arguments and return the exit status: the worst of all its studies.

    Raises:
        UserError: arguments that compose no study. What stops a study itself is printed, and the sweep goes on.
    """

    def run(study: Study) -> None:
        from simulations.study.run import run_study

        run_study(study)

    return compose_and_run(arguments, run, PROGRAM, CONFIG_NAME)


def compose_and_run(
    arguments: Sequence[str],
    run: Callable[[Study], object],
    program: str,
    config_name: str,
    own_flags: Sequence[str] = (),
) -> int:
    """Compose one study, or with ``--multirun`` several, and ``run`` each; return the worst exit status.

    ``arguments`` are overrides and Hydra's flags, ``program`` the command as messages name it, ``config_name`` the
    primary configuration in ``configs``, ``own_flags`` what the command itself read already. All studies are composed
    before the first one runs.
    """
    flags, overrides = flags_apart(arguments, own_flags)
    sweep = any(flag in flags for flag in SWEEP)
    if (asked := without_showing(flags)) is not None:
        flags, run = asked[0], partial(show, part=asked[1])
    register_schema()
    studies: list[tuple[str, Study]] = []
    wrong: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=config_name)
    def application(config: DictConfig) -> None:
        """Keep the study of one job, or what is wrong with it."""
        job = HydraConfig.get().job
        title = f"run {job.num + 1}: {job.override_dirname}" if sweep else ""
        # Hydra would print lines of its own before an error that passes through it.
        try:
            with one_line_errors():
                studies.append((title, study_from_config(config)))
        except UserError as error:
            wrong.append(error)

    with _command_line(program, [*flags, *with_texts(overrides, sweep)]), one_line_errors():
        application()
    if wrong:
        raise wrong[0]
    _check_folders([study for _, study in studies])
    return max((run_one(study, run, title) for title, study in studies), default=0)


def show(study: Study, part: str = "") -> None:
    """Print a composed study with all its numbers, and below it of what the rule made those that were left to it.

    Of a ``part``, such as ``student`` or ``student.steps``, nothing else is printed; one that there is not raises
    :class:`UserError`.
    """
    shown: Any = dataclasses.asdict(study)
    for name in part.split(".") if part else ():
        if not isinstance(shown, dict) or name not in shown:
            known = shown if isinstance(shown, dict) else ()
            raise UserError(f"--package {part}: no such part of a study{nearest(name, known)}")
        shown = shown[name]
    if not isinstance(shown, dict):
        print(shown)
        return
    print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")
    if not part:
        print(f"# {explained(study)}")


def _check_folders(studies: Sequence[Study]) -> None:
    """Raise :class:`UserError` for two studies that would write into one run folder."""
    folders = Counter(study.run_folder() for study in studies if study.run_dir)
    for study in studies:
        if study.run_dir and folders[study.run_folder()] > 1:
            raise UserError(
                f"run_dir={study.run_dir}: each study of a sweep needs a run folder of its own; set out=... instead"
            )


def run_one(study: Study, run: Callable[[Study], object], title: str = "") -> int:
    """Run one study, of a sweep with a ``title``; return 0, or the status of what stopped it after saying so."""
    if title:
        print(f"fedkr: {title}", flush=True)
    try:
        run(study)
    except Exception as error:
        return tell_failure(error, Path(study.run_dir or study.out))
    return 0


@contextmanager
def _command_line(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Show Hydra our arguments, and have it raise its errors: left alone it prints several lines and exits."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [program, *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
