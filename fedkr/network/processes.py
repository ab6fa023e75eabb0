"""A coordinator's three processes, gate, hub and SuperLink: command lines, ports, and what Flower is told of them."""

from __future__ import annotations

import ctypes
import json
import signal
import socket
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

import psutil

from fedkr.errors import StudyFailedError
from fedkr.network.bundle import write_toml
from fedkr.network.certificates import ServerFiles

LOOPBACK = "127.0.0.1"
# Of Flower's answers: "Node ID not found for account."
NO_SUCH_NODE = "[code: 24]"
# A busy machine loads a server's libraries slowly.
START_DEADLINE = 120.0
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
# Loaded before any fork, after which little may be done.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def gate_command(host: str, port: int, superlink: str, tls: ServerFiles) -> list[str]:
    """Return the gate's command line: public on ``host:port``, before the SuperLink at ``HOST:PORT`` of loopback."""
    files = [str(path) for path in tls]
    return [sys.executable, "-m", "fedkr.network.gate", host, str(port), superlink, *files]


def hub_command(port: int, bundle: Path) -> list[str]:
    """Return the command line of the hub of a signed bundle's folder."""
    return [sys.executable, "-m", "fedkr.network.hub", LOOPBACK, str(port), str(bundle)]


def hub_address(port: int) -> str:
    """Return what the SuperLink's variable ``FLWR_SUPERGRID_API_URL`` must be."""
    return f"http://{LOOPBACK}:{port}"


def superlink_flags(tls: ServerFiles) -> tuple[str, ...]:
    """Return the flags of a SuperLink with TLS that takes registered nodes only."""
    files = ("--ssl-ca-certfile", str(tls.authority), "--ssl-certfile", str(tls.certificate))
    return (*files, "--ssl-keyfile", str(tls.key), "--enable-supernode-auth")


def end_with_parent() -> None:
    """Have Linux end this process, which has not begun its program yet, when its parent is gone without a word."""
    if LIBC is not None:
        LIBC.prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def wait_for_port(port: int, server: Popen[bytes]) -> None:
    """Wait until a server that was started listens on a port, it and no other process.

    Raises:
        StudyFailedError: it ended, or does not listen for two minutes; to be restarted where another process has the
            port, which was free when it was chosen.
    """
    until = time.monotonic() + START_DEADLINE
    while time.monotonic() < until and server.poll() is None:
        if listens(port, server):
            return
        time.sleep(0.05)
    why = f"after {START_DEADLINE:.0f} s" if server.poll() is None else f"its server ended ({server.returncode})"
    raise StudyFailedError(f"nothing listens on port {port}: {why}", restart=ended_without_port(port, server))


def listens(port: int, server: Popen[bytes]) -> bool:
    """Whether a process that was started, or a child of it, listens on a TCP port."""
    try:
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
        listening = [at for member in family for at in member.net_connections("tcp") if at.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return False
    return any(at.laddr.port == port for at in listening)


def ended_without_port(port: int, server: Popen[bytes]) -> bool:
    """Whether a server of loopback ended while another process has its port: on a port of its own it would run."""
    if server.poll() is None:
        return False
    try:
        usable_port(wanted=port)
    except OSError:
        return True
    return False


def usable_port(host: str = LOOPBACK, wanted: int = 0) -> int:
    """Return ``wanted``, or a free TCP port for 0; raise :class:`OSError` or :class:`OverflowError` for one in use.

    It can be taken before its server binds it (:func:`ended_without_port`).
    """
    # As for the servers themselves, connections that a stopped one left in TIME_WAIT do not block a port.
    with socket.create_server((host, wanted)) as probe:
        return int(probe.getsockname()[1])


def write_connection(home: Path, name: str, address: str, authority: Path | None) -> None:
    """Tell Flower's command line, whose home this is, where its SuperLink is; without ``authority`` there is no TLS."""
    trust: dict[str, Any] = {"root-certificates": str(authority)} if authority else {"insecure": True}
    write_toml(home / "config.toml", {"superlink": {"default": name, name: {"address": address, **trust}}})


def registered_node(answer: CompletedProcess[str]) -> str | None:
    """Return the id that ``flwr supernode register --format json`` answered with; None where it refused the key."""
    node = _document(answer).get("node-id")
    return None if node is None else str(node)


def unregistered(answer: CompletedProcess[str]) -> bool:
    """Whether ``flwr supernode unregister --format json`` left no such node; its exit status is 0 in any case."""
    said = _document(answer)
    return said.get("success") is True or NO_SUCH_NODE in str(said.get("error-message"))


def complaint(answer: CompletedProcess[str]) -> str:
    """Return in one line why a command of Flower's failed, with or without ``--format json``."""
    return last_words(str(_document(answer).get("error-message", answer.stdout + answer.stderr)))


def _document(answer: CompletedProcess[str]) -> dict[str, Any]:
    """Return what a command of Flower's with ``--format json`` answered, whatever stands before it; else nothing."""
    try:
        found = json.loads(answer.stdout[answer.stdout.index("{") :])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def last_words(text: str) -> str:
    """Return the last line of a command's output that has words, without the frame that Flower draws around errors."""
    lines = [line.strip(" \t│╭╰─╮╯{}") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")
