"""The command lines of a coordinator's three processes: gate, hub and SuperLink."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

from fedkr.errors import StudyFailedError
from fedkr.network.certificates import ServerFiles

LOOPBACK = "127.0.0.1"
START_DEADLINE = 30.0


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


def wait_for_port(host: str, port: int) -> None:
    """Wait until something listens; raise :class:`StudyFailedError` when nothing does for half a minute."""
    until = time.monotonic() + START_DEADLINE
    while time.monotonic() < until:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise StudyFailedError(f"nothing listens on {host}:{port} after {START_DEADLINE:.0f} s")


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def last_words(text: str) -> str:
    """Return the last line of a command's output that has words, without the frame that Flower draws around errors."""
    lines = [line.strip(" \t│╭╰─╮╯{}") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")
