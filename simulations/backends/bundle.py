"""The app that Flower is given: a folder with the shim and nothing else, and the run's config as TOML."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

import fedkr
from fedkr.config import Study
from fedkr.errors import UserError

SHIM = "fedkr_app"

PYPROJECT = """\
[project]
name = "fedkr"
version = "{version}"
description = "Binds the installed fedkr apps"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedkr"
fab-include = ["{shim}.py"]

[tool.flwr.app.components]
serverapp = "{shim}:server_app"
clientapp = "{shim}:client_app"

[tool.flwr.app.config]
study = ""
run-dir = ""
"""


def installed(shim: str = SHIM) -> Path:
    """Return the file of an installed module that binds apps; raise :class:`UserError` where there is none."""
    spec = importlib.util.find_spec(shim)
    if spec is None or spec.origin is None:
        raise UserError(f"{shim}.py: not found beside the installed packages; install fedkr again")
    return Path(spec.origin)


def write_bundle(folder: Path, shim: Path) -> Path:
    """Write the app's folder with a copy of ``shim``; return it."""
    folder.mkdir(parents=True)
    shutil.copyfile(shim, folder / f"{SHIM}.py")
    (folder / "pyproject.toml").write_text(PYPROJECT.format(version=fedkr.__version__, shim=SHIM), encoding="utf-8")
    return folder


def write_run_config(path: Path, study: Study, run_dir: Path) -> Path:
    """Write what both apps find in ``context.run_config``; return ``path``."""
    return write_toml(path, {"study": study.to_json(), "run-dir": str(run_dir.absolute())})


def write_toml(path: Path, values: Mapping[str, Any]) -> Path:
    """Write values as TOML; return ``path``."""
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path
