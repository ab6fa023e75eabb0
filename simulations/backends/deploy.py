"""The deployment backend, on loopback: a SuperLink with TLS and one registered SuperNode for each site."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedkr.config import BackendConfig, Study
from fedkr.errors import StudyFailedError
from simulations.backends import certificates
from simulations.backends.bundle import installed
from simulations.backends.home import FlowerHome
from simulations.backends.restarts import with_restarts
from simulations.backends.site_folder import write_site_folders
from simulations.backends.superlink import CONNECTION, HOST, SuperLink, Transport, choose_port, last_line


class DeployBackend:
    """Runs each site as a SuperNode process that knows its own site file only, as hospitals do."""

    def __init__(self, config: BackendConfig, shim: Path) -> None:
        """Take the file of the module that binds the apps."""
        self._config = config
        self._shim = shim

    def run(self, study: Study, run_dir: Path) -> None:
        """See :class:`simulations.backends.Backend`; keys, certificates and site folders go to ``run_dir/deploy``."""
        with_restarts(lambda: self._attempt(study, run_dir), self._config.restarts)

    def _attempt(self, study: Study, run_dir: Path) -> None:
        with FlowerHome(study, run_dir) as home:
            sites = write_site_folders(study, home.run_dir)
            transport = make_tls(home.run_dir / "deploy")
            environment = home.environment()
            link = SuperLink(home, choose_port(self._config.port), transport, environment)
            nodes = SuperNodes(home, link, transport)
            nodes.register_and_start(sites)
            least = study.federation.min_sites or study.federation.sites
            link.run(study, self._shim, federation="", watch=lambda: nodes.check(least))


def make_tls(folder: Path) -> Transport:
    """Make an authority and the SuperLink's certificate for loopback; return the SuperLink's transport."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = certificates.make_server_certificate(folder, HOST, "localhost")
    flags = ["--ssl-ca-certfile", str(files.authority)]
    flags += ["--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)]
    return Transport((*flags, "--enable-supernode-auth"), files.authority)


class SuperNodes:
    """The SuperNodes of a run; ``running`` has their processes by the names of their sites."""

    def __init__(self, home: FlowerHome, link: SuperLink, transport: Transport) -> None:
        self._home = home
        self._link = link
        self._authority = str(transport.authority)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def register_and_start(self, sites: list[Path]) -> None:
        """Make each site's key, register it with the SuperLink, and start the SuperNode in the site's folder.

        Raises:
            StudyFailedError: the SuperLink refused a key.
        """
        keys = [certificates.make_node_key(site, "node") for site in sites]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(self._register, (key.with_suffix(".pub") for key in keys), (site.name for site in sites)))
        for site, key in zip(sites, keys, strict=True):
            self.running[site.name] = self.start(site, key)

    def start(self, site: Path, key: Path) -> subprocess.Popen[bytes]:
        """Start the SuperNode of a site's folder, which writes to ``run_dir/flower/<site>.log``."""
        own = self._home.path / site.name  # nodes that share a home would install the bundle into the same folder
        own.mkdir()
        command = ["flower-supernode", "--root-certificates", self._authority, "--superlink", self._link.address]
        command += ["--auth-supernode-private-key", str(key), "--node-config", str(site / "node.toml")]
        command += ["--host", HOST, "--port", str(choose_port())]
        return self._home.start(command, self._log(site.name).name, self._home.environment(FLWR_HOME=str(own)))

    def check(self, least: int) -> None:
        """Raise :class:`StudyFailedError` with the log of a SuperNode that ended when fewer than ``least`` run."""
        ended = [name for name, node in self.running.items() if node.poll() is not None]
        if len(self.running) - len(ended) < least:
            status = self.running[ended[0]].returncode
            raise StudyFailedError(
                f"{ended[0]}: its SuperNode ended by itself, exit status {status} (log: {self._log(ended[0])})"
            )

    def _register(self, key: Path, name: str) -> None:
        answer = self._link.flwr("supernode", "register", str(key), CONNECTION, "--name", name)
        if answer.returncode:
            raise StudyFailedError(f"{name}: its key was not registered: {last_line(answer.stdout + answer.stderr)}")

    def _log(self, name: str) -> Path:
        return self._home.logs / f"{name}.log"


def make(config: BackendConfig, shim: str) -> DeployBackend:
    """Return the backend with the apps of an installed module."""
    return DeployBackend(config, installed(shim))
