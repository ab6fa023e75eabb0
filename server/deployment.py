"""A coordinator's folder, and what its operator does: set up, start, register sites, run studies.

Only the gate's port is public. SuperLink and hub listen on loopback, so whoever is to start a run needs an account on
the coordinator's machine.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedkr.config import nearest
from fedkr.disk import write_json
from fedkr.errors import StudyFailedError, UserError
from fedkr.network.addresses import read_address
from fedkr.network.bundle import build_bundle, installed, write_toml
from fedkr.network.certificates import ServerFiles, issue_certificate, make_signing_key
from fedkr.network.offline import flower_environment
from fedkr.network.processes import (
    LOOPBACK,
    complaint,
    end_with_parent,
    gate_command,
    hub_address,
    hub_command,
    registered_node,
    superlink_flags,
    unregistered,
    usable_port,
    wait_for_port,
    write_connection,
)
from fedkr.network.restarts import with_restarts
from fedkr.network.signing import SignedBundle, read_signing_key
from fedkr.site_name import check_site_name
from server.composition import compose_for_hospitals

CONNECTION = "fedkr"
COMPLETED = "finished:completed"
TICK = 0.5
# Where a port of loopback was taken before its server had it.
RESTARTS = 3


@dataclass(frozen=True)
class CoordinatorFolder:
    """Where a coordinator keeps certificates, its publisher's key, the signed bundle, sites, and Flower's state."""

    root: Path

    @property
    def tls(self) -> ServerFiles:
        """The certificate of gate and SuperLink, with its authority's."""
        return ServerFiles(self.root / "ca.crt", self.root / "server.crt", self.root / "server.key")

    @property
    def bundle(self) -> Path:
        """The folder of the signed bundle."""
        return self.root / "bundle"

    @property
    def home(self) -> Path:
        """Flower's own folder."""
        return self.root / "flower"

    @property
    def sites(self) -> dict[str, str]:
        """The names that the operator gave, by the ids of the sites' nodes."""
        return self._read("sites.json") if (self.root / "sites.json").exists() else {}

    def write_sites(self, sites: dict[str, str]) -> None:
        """Keep the registered sites."""
        write_json(self.root / "sites.json", sites)

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of Flower's processes here."""
        return flower_environment(self.home, **extra)

    def flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Flower's command line against the SuperLink of this folder and return its output."""
        return subprocess.run(
            ["flwr", *arguments], cwd=self.home, env=self.environment(), encoding="utf-8", errors="replace",
            capture_output=True, check=False,
        )  # fmt: skip

    def runs(self) -> dict[int, str]:
        """Return the status of each run so far, by its id; raise :class:`StudyFailedError` where nobody answers."""
        answer = self.flwr("ls", CONNECTION, "--format", "json")
        try:
            return {run["run-id"]: run["status"] for run in json.loads(answer.stdout)["runs"]}
        except (ValueError, KeyError):
            raise StudyFailedError(
                f"{self.root}: no SuperLink answers ({complaint(answer)}); `fedkr server start` starts it"
            ) from None

    def _read(self, name: str) -> Any:
        path = self.root / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); was `fedkr server init` run?") from None


def set_up(root: Path, hosts: Sequence[str], publisher: str) -> str:
    """Make a coordinator's folder: certificates for its hosts, a publisher's key, and the bundle, signed.

    Args:
        root: a folder that is not there yet, or empty.
        hosts: names or addresses under which sites reach the coordinator.
        publisher: the name under which sites list the key.

    Returns:
        What each site's engineer needs, a part of the site file (YAML).

    Raises:
        UserError: the folder holds something or is another's, or a host is none; nothing is made then.
    """
    folder = CoordinatorFolder(root.absolute())
    if folder.bundle.exists():
        raise UserError(f"{root}: is there already; name a new folder, or go on with `fedkr server start {root}`")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: is not empty, and no coordinator's folder; name a new or an empty folder")
    certificate = issue_certificate(*hosts, LOOPBACK, "localhost")
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; name a folder that this account owns") from None
    folder.home.mkdir(mode=0o700)
    certificate.write(folder.root)
    key = make_signing_key(folder.root, "publisher")
    build_bundle(installed()).signed(publisher, read_signing_key(key.private)).write(folder.bundle)
    connection = {
        "coordinator": f"{hosts[0]}:8443",
        "authority": "ca.crt",
        "key": "site.key",
        "publishers": {publisher: key.public.read_text(encoding="utf-8")},
    }
    return yaml.safe_dump({"connection": connection}, sort_keys=False)


def serve(root: Path, listen: str) -> None:
    """Start gate, hub and SuperLink, and keep them until a signal ends this process or one of them ends.

    Args:
        root: the coordinator's folder.
        listen: ``HOST:PORT`` of the gate.

    Raises:
        UserError: no such folder, or a port that cannot be used.
        StudyFailedError: one of the processes ended by itself.
    """
    folder = CoordinatorFolder(root.absolute())
    SignedBundle.read(folder.bundle)
    host, port = read_address(listen)
    try:
        usable_port(host, port)
    except OSError as error:
        raise UserError(f"--listen {listen}: cannot be used ({error}); name another address or port") from None
    with_restarts(lambda: _serve(folder, host, port), RESTARTS)


def _serve(folder: CoordinatorFolder, host: str, port: int) -> None:
    superlink, hub = usable_port(), usable_port()
    address = f"{LOOPBACK}:{superlink}"
    write_connection(folder.home, CONNECTION, address, folder.tls.authority)
    link = ["flower-superlink", *superlink_flags(folder.tls), "--host", LOOPBACK, "--port", str(superlink)]
    link += ["--database", str(folder.root / "state.db")]
    hub_and_link = {"hub": hub_command(hub, folder.bundle), "superlink": link}
    public = {"gate": gate_command(host, port, address, folder.tls)}
    environment = folder.environment(FLWR_SUPERGRID_API_URL=hub_address(hub))
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(running(hub_and_link, folder, environment))
        wait_for_port(hub, processes["hub"])
        wait_for_port(superlink, processes["superlink"])
        # Last, so that the SuperLink answers whoever finds the gate open.
        processes |= stack.enter_context(running(public, folder, environment))
        wait_for_port(port, processes["gate"])
        print(f"sites connect to {host}:{port}; SuperLink and hub listen on loopback only; logs are in {folder.root}")
        while all(process.poll() is None for process in processes.values()):
            time.sleep(TICK)
        ended = next(name for name, process in processes.items() if process.poll() is not None)
        raise StudyFailedError(f"the {ended} ended by itself (log: {folder.root / ended}.log)")


@contextlib.contextmanager
def running(
    commands: dict[str, list[str]], folder: CoordinatorFolder, environment: dict[str, str]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start processes that log into the folder, and end them with the block."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (folder.root / f"{name}.log").open("ab") as log:
                processes[name] = subprocess.Popen(
                    command, cwd=folder.home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    preexec_fn=end_with_parent,
                )  # fmt: skip
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def register(root: Path, name: str, key: Path) -> str:
    """Register a site's public key under the name that the operator gives it; return the node's id.

    Raises:
        UserError: a name that is taken or is none, or a key that Flower refuses.
    """
    folder = CoordinatorFolder(root.absolute())
    check_site_name(name, "fedkr server add")
    if name in folder.sites.values():
        raise UserError(f"{name!r}: taken; registered: {', '.join(sorted(folder.sites.values()))}")
    answer = folder.flwr("supernode", "register", str(key.absolute()), CONNECTION, "--name", name, "--format", "json")
    node = registered_node(answer)
    if node is None:
        raise UserError(f"{key}: not registered: {complaint(answer)} (does `fedkr server start {root}` run?)")
    folder.write_sites(folder.sites | {node: name})
    return node


def remove(root: Path, name: str) -> str:
    """Take a site's key out of the registered ones, and free its name for another key; return the node's id.

    The node is served no longer. A run that is going on counts it as lost.

    Raises:
        UserError: no site of this name, or Flower does not take its node out.
    """
    folder = CoordinatorFolder(root.absolute())
    nodes = {own: node for node, own in folder.sites.items()}
    if name not in nodes:
        raise UserError(f"{name!r}: not registered{nearest(name, nodes)}")
    answer = folder.flwr("supernode", "unregister", nodes[name], CONNECTION, "--format", "json")
    # Also where it is not there any more: its name was to be taken out, too, when a power cut came.
    if not unregistered(answer):
        raise UserError(f"{name!r}: not removed: {complaint(answer)} (does `fedkr server start {root}` run?)")
    folder.write_sites({node: own for node, own in folder.sites.items() if own != name})
    return nodes[name]


def run(root: Path, overrides: Sequence[str], run_dir: Path) -> None:
    """Run a study over the registered sites and show its log.

    Args:
        root: the coordinator's folder, whose processes ``fedkr server start`` runs.
        overrides: as in ``fedkr simulate``.
        run_dir: gets the results.

    Raises:
        UserError: no site is registered, or overrides that compose no study.
        StudyFailedError: the run did not complete.
    """
    folder = CoordinatorFolder(root.absolute())
    if not folder.sites:
        raise UserError(f"{root}: no site is registered; `fedkr server add {root} NAME KEY` registers one")
    asked = ["backend=deploy", "data.name=none", f"federation.sites={len(folder.sites)}", *overrides]
    compose_for_hospitals(asked)
    config = {"overrides": shlex.join(asked), "run-dir": str(run_dir.absolute()), "sites": json.dumps(folder.sites)}
    write_toml(folder.home / "run.toml", config)
    app, before = SignedBundle.read(folder.bundle).app, folder.runs()
    command = ["flwr", "run", app, CONNECTION, "--stream", "--run-config", str(folder.home / "run.toml")]
    subprocess.run(command, cwd=folder.home, env=folder.environment(), check=False, preexec_fn=end_with_parent)
    started = {run: status for run, status in folder.runs().items() if run not in before}
    if list(started.values()) != [COMPLETED]:
        raise StudyFailedError(f"the run did not complete ({', '.join(started.values()) or 'Flower did not start it'})")
