"""The deployment backend, on loopback: a coordinator's closed network and one registered SuperNode for each site."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedkr.config import BackendConfig, Study
from fedkr.errors import StudyFailedError
from fedkr.network.bundle import build_bundle, installed, run_config
from fedkr.network.certificates import KeyPair, make_node_key, make_server_certificate, make_signing_key
from fedkr.network.processes import (
    LOOPBACK,
    complaint,
    ended_without_port,
    gate_command,
    hub_address,
    hub_command,
    registered_node,
    superlink_flags,
    usable_port,
    wait_for_port,
)
from fedkr.network.restarts import with_restarts
from fedkr.network.signing import read_signing_key
from simulations.backends.home import FlowerHome
from simulations.backends.site_folder import write_connection, write_site_folders
from simulations.backends.superlink import CONNECTION, SuperLink, Transport, choose_port
from sites.join import supernode_command
from sites.workspace import Connection, read_site_file

PUBLISHER = "rehearsal"


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
            network = Network(home, self._shim, choose_port(self._config.port))
            nodes = SuperNodes(home, network)
            nodes.register_and_start(write_site_folders(study, home.run_dir))
            least = study.federation.min_sites or study.federation.sites
            network.run(study, nodes, least)


class Network:
    """A coordinator of loopback: the SuperLink, the hub with the signed bundle, and the gate before them.

    Args:
        home: owns the processes; keys, certificates and bundle go to ``run_dir/deploy``.
        shim: the file of the module that binds the apps.
        port: the gate's.
    """

    def __init__(self, home: FlowerHome, shim: Path, port: int) -> None:
        folder = home.run_dir / "deploy"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._home, self.address = home, f"{LOOPBACK}:{port}"
        self.tls = make_server_certificate(folder, LOOPBACK, "localhost")
        self.publisher = make_signing_key(folder, "publisher")
        self.bundle = build_bundle(shim).signed(PUBLISHER, read_signing_key(self.publisher.private))
        self.bundle.write(folder / "bundle")
        hub, superlink = usable_port(), usable_port()
        hub_process = home.start(hub_command(hub, folder / "bundle"), "hub.log", home.environment())
        wait_for_port(hub, hub_process)
        environment = home.environment(FLWR_SUPERGRID_API_URL=hub_address(hub))
        self.link = SuperLink(home, superlink, Transport(superlink_flags(self.tls), self.tls.authority), environment)
        gate = home.start(gate_command(LOOPBACK, port, self.link.address, self.tls), "gate.log", home.environment())
        wait_for_port(port, gate)

    def connection(self, key: Path) -> Connection:
        """Return how the owner of a registered key joins."""
        publishers = {PUBLISHER: self.publisher.public.read_text(encoding="utf-8")}
        return Connection(self.address, str(self.tls.authority), str(key), publishers, usable_port())

    def run(self, study: Study, nodes: SuperNodes, least: int) -> None:
        """Run a study over the registered nodes; at least as many must stay alive."""
        config = run_config(study, self._home.run_dir, sites=json.dumps(nodes.names))
        self.link.run(self.bundle.app, config, watch=lambda: nodes.check(least))


class SuperNodes:
    """The SuperNodes of a run.

    Attributes:
        names: the sites', by their nodes' ids.
        running: the processes, by the names of their sites.
    """

    def __init__(self, home: FlowerHome, network: Network) -> None:
        self._home = home
        self._network = network
        self.names: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, tuple[Path, KeyPair, int]] = {}

    def register_and_start(self, sites: list[Path]) -> None:
        """Make each site's key, register it with the SuperLink, and start the site's SuperNode.

        Args:
            sites: the sites' folders, each with its site file.

        Raises:
            StudyFailedError: the SuperLink refused a key.
        """
        keys = [make_node_key(site, "node") for site in sites]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            nodes = pool.map(self._register, (key.public for key in keys), (site.name for site in sites))
            self.names = {node: site.name for node, site in zip(nodes, sites, strict=True)}
        for site, key in zip(sites, keys, strict=True):
            self.running[site.name] = self.start(site, key)

    def start(self, site: Path, key: KeyPair) -> subprocess.Popen[bytes]:
        """Start the SuperNode of a site's folder, which writes to ``run_dir/flower/<site>.log``."""
        own = self._home.path / site.name  # nodes that share a home would install the bundle into the same folder
        own.mkdir(exist_ok=True)
        connection = self._network.connection(key.private)
        self._started[site.name] = site, key, connection.port
        file = write_connection(site, connection)
        command = supernode_command(file, read_site_file(file), own)
        return self._home.start(command, self._log(site.name).name, self._home.environment(FLWR_HOME=str(own)))

    def check(self, least: int) -> None:
        """Raise :class:`StudyFailedError` with the log of a SuperNode that ended when fewer than ``least`` run.

        One whose port was taken before it had it is started again, on another.
        """
        for name, node in self.running.items():
            site, key, port = self._started[name]
            if ended_without_port(port, node):
                self.running[name] = self.start(site, key)
        ended = [name for name, node in self.running.items() if node.poll() is not None]
        if len(self.running) - len(ended) < least:
            status = self.running[ended[0]].returncode
            raise StudyFailedError(
                f"{ended[0]}: its SuperNode ended by itself, exit status {status} (log: {self._log(ended[0])})"
            )

    def _register(self, key: Path, name: str) -> str:
        """Return the id of the node that a key was registered as."""
        asked = ("supernode", "register", str(key), CONNECTION, "--name", name, "--format", "json")
        answer = self._network.link.flwr(*asked)
        node = registered_node(answer)
        if node is None:
            raise StudyFailedError(f"{name}: its key was not registered: {complaint(answer)}")
        return node

    def _log(self, name: str) -> Path:
        return self._home.logs / f"{name}.log"


def make(config: BackendConfig, shim: str) -> DeployBackend:
    """Return the backend with the apps of an installed module."""
    return DeployBackend(config, installed(shim))
