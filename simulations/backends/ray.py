"""The Ray backend: Flower's simulation under a SuperLink of our own, one actor for each share of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fedkr.config import BackendConfig, Study
from fedkr.errors import UserError
from fedkr.network.bundle import installed, run_config, write_bundle
from fedkr.network.restarts import with_restarts
from simulations.backends.home import FlowerHome
from simulations.backends.superlink import SuperLink, Transport, choose_port


class RayBackend:
    """Runs all sites as Ray actors, on this machine or on an existing cluster (``backend.address``).

    A Ray actor that died stays in Flower's pool and fails every later message, so a ServerApp that meets one leaves
    a note that asks for a restart; the same happens when the SuperLink or Ray itself dies.
    """

    def __init__(self, config: BackendConfig, shim: Path) -> None:
        """Take the module that binds the apps; raise :class:`UserError` for more of this machine than there is."""
        self._config = config
        self._shim = shim
        self._cpus = config.cpus or os.cpu_count() or 1
        if not config.address:
            self._check_resources()

    def run(self, study: Study, run_dir: Path) -> None:
        """See :class:`simulations.backends.Backend`."""
        with_restarts(lambda: self._attempt(study, run_dir), self._config.restarts)

    def _check_resources(self) -> None:
        config = self._config
        if config.cpus_per_site > self._cpus:
            raise UserError(
                f"backend.cpus_per_site={config.cpus_per_site}: more than the {self._cpus} processors of this machine "
                "(or of backend.cpus); lower it"
            )
        if config.gpus_per_site > torch.cuda.device_count():
            raise UserError(
                f"backend.gpus_per_site={config.gpus_per_site}: this machine has {torch.cuda.device_count()} GPUs; "
                "lower it, to 0 for none"
            )

    def _attempt(self, study: Study, run_dir: Path) -> None:
        with FlowerHome(study, run_dir) as home:
            environment = home.environment(**self._ray_environment(home))
            port = choose_port(self._config.port)
            link = SuperLink(home, port, Transport(("--insecure", "--simulation")), environment)
            app, config = write_bundle(home.path / "fedkr", self._shim), run_config(study, home.run_dir)
            link.run(str(app), config, lambda: None, self._federation(study.federation.sites))

    def _ray_environment(self, home: FlowerHome) -> dict[str, str]:
        values = {
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            # Ray's workers are niced by 15 otherwise: beside the server and the oracle they would starve.
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # "local" keeps Ray from joining another cluster that happens to run on this machine.
            "RAY_ADDRESS": self._config.address or "local",
        }
        if self._config.address:
            return values
        # Without its control process Ray is lost; its own patience is a minute.
        return values | {"RAY_TMPDIR": str(home.path), "RAY_gcs_rpc_server_reconnect_timeout_s": "10"}

    def _federation(self, sites: int) -> str:
        """Return Flower's settings; Ray refuses a number of processors for a cluster that already runs."""
        config = self._config
        settings = {
            "num-supernodes": sites,
            "client-resources-num-cpus": config.cpus_per_site,
            "client-resources-num-gpus": float(config.gpus_per_site),
        }
        if not config.address:
            settings["init-args-num-cpus"] = self._cpus
        return " ".join(f"{name}={value}" for name, value in settings.items())


def make(config: BackendConfig, shim: str) -> RayBackend:
    """Return the backend with the apps of an installed module."""
    return RayBackend(config, installed(shim))
