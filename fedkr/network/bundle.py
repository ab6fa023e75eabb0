"""The app that Flower is given: a folder with the shim and nothing else, and the run's config as TOML."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

import fedkr
from fedkr.config import Study
from fedkr.errors import StudyFailedError, UserError
from fedkr.network.offline import flower_environment
from fedkr.network.signing import SignedBundle

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
overrides = ""
study = ""
run-dir = ""
sites = ""
"""
# As `flwr run` names it: the version is said, or Flower would take an older bundle that it remembers.
APP = f"@fedkr/fedkr=={fedkr.__version__}"


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


def build_bundle(shim: Path) -> SignedBundle:
    """Build the bundle of a shim, the same bytes wherever this version of fedkr does; nobody has signed it yet.

    It has no dependencies: what runs at a site is what the site installed.

    Raises:
        StudyFailedError: Flower could not build it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = write_bundle(folder / "fedkr", shim)
        built = subprocess.run(
            ["flwr", "build", "--app", str(app)], cwd=folder, env=flower_environment(folder / "home"),
            encoding="utf-8", errors="replace", capture_output=True, check=False,
        )  # fmt: skip
        found = list(folder.glob("*.fab"))
        if built.returncode or len(found) != 1:
            raise StudyFailedError(f"`flwr build` failed: {(built.stdout + built.stderr).strip()}")
        return SignedBundle(APP, found[0].read_bytes())


def run_config(study: Study, run_dir: Path, **more: str) -> dict[str, str]:
    """Return what both apps find in ``context.run_config``."""
    return {"study": study.to_json(), "run-dir": str(run_dir.absolute()), **more}


def write_toml(path: Path, values: Mapping[str, Any]) -> Path:
    """Write values as TOML; return ``path``."""
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path
