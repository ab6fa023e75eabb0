"""Where a study's two apps run: each backend is one module of this package, named by ``backend.kind``.

A backend starts the ServerApp and the ClientApps with the same run config, ``study`` (the study's JSON document) and
``run-dir`` (an absolute path), and returns when the run has completed. To add one, write a module with a function
``make(config, shim)`` and add its name to ``fedkr.config.BACKENDS``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from fedkr.config import BACKENDS, BackendConfig, Study, one_of


class Backend(Protocol):
    """Runs the apps of a study once."""

    def run(self, study: Study, run_dir: Path) -> None:
        """Run ``study`` with its results under ``run_dir``; nothing that was started is left behind.

        Raises:
            StudyFailedError: the run ended without completing; one line says why.
            UserError: the surroundings refuse it (a port in use, another process in the same run folder).
        """


def make_backend(config: BackendConfig, shim: str = "fedkr_app") -> Backend:
    """Return the backend that ``config.kind`` names; ``shim`` is the module with ``server_app`` and ``client_app``.

    Raises:
        UserError: an unknown kind, or options that this machine cannot meet.
    """
    one_of("backend.kind", config.kind, BACKENDS)
    return cast(Backend, importlib.import_module(f"{__name__}.{config.kind}").make(config, shim))
