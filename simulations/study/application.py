"""The Hydra application behind ``fedkr simulate``: composes one study, or a sweep of them, and runs each in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fedkr.config import Study
from fedkr.errors import UserError
from server.composition import CONFIG_MODULE, CONFIG_NAME, one_line_errors, register_schema, study_from_config
from simulations.exits import tell_failure

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


def compose_and_run(arguments: Sequence[str], run: Callable[[Study], object], program: str, config_name: str) -> int:
    """Compose one study, or with ``--multirun`` several, and ``run`` each; return the worst exit status.

    ``arguments`` are overrides and Hydra's flags, ``program`` the command as messages name it, ``config_name`` the
    primary configuration in ``configs``.
    """
    _check_sweep(arguments)
    register_schema()
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=config_name)
    def application(config: DictConfig) -> None:
        front = HydraConfig.get()
        if front.mode is RunMode.MULTIRUN:
            print(f"fedkr: run {front.job.num + 1}: {front.job.override_dirname}", flush=True)
        statuses.append(run_one(config, run))

    with _command_line(program, arguments), one_line_errors():
        application()
    return max(statuses, default=0)


def _check_sweep(arguments: Sequence[str]) -> None:
    """Raise :class:`UserError` for one run folder that all studies of a sweep would write into."""
    folders = [argument for argument in arguments if argument.startswith("run_dir=") and not {",", "$"} & set(argument)]
    if folders and {"-m", "--multirun"} & set(arguments):
        raise UserError(f"{folders[0]}: each study of a sweep needs a run folder of its own; set out=... instead")


def run_one(config: DictConfig, run: Callable[[Study], object]) -> int:
    """Run the study that ``config`` describes; return 0, or the status of what stopped it after saying so."""
    folder = None
    try:
        study = study_from_config(config)
        folder = Path(study.run_dir or study.out)
        run(study)
    except Exception as error:
        return tell_failure(error, folder)
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
