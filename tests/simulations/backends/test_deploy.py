"""The SuperNodes of a loopback deployment, without Flower."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedkr.errors import StudyFailedError
from fedkr.network.processes import LOOPBACK, usable_port
from simulations.backends import deploy
from simulations.backends.deploy import SuperNodes
from sites.workspace import Connection


class Node:
    """A process that ended or did not."""

    returncode = 1

    def __init__(self, port, ended):
        self.port, self.ended = port, ended

    def poll(self):
        return self.returncode if self.ended else None


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    """One site's SuperNode, which takes the ports of a list and ends where one is in use."""
    ports = []
    home = SimpleNamespace(path=tmp_path, logs=tmp_path, environment=lambda **extra: extra)
    home.start = lambda command, log, environment: Node(ports[-1], command)
    network = SimpleNamespace(connection=lambda key: Connection(port=ports[-1]))
    monkeypatch.setattr(deploy, "write_connection", lambda site, connection: site)
    monkeypatch.setattr(deploy, "read_site_file", lambda path: path)
    monkeypatch.setattr(deploy, "supernode_command", lambda *about: in_use(ports[-1]))
    found = SuperNodes(home, network)

    def start(port):
        ports.append(port)
        found.running["site-0"] = found.start(tmp_path / "site-0", SimpleNamespace(private=Path("key")))

    return found, ports, start


def in_use(port):
    try:
        usable_port(wanted=port)
    except OSError:
        return True
    return False


def test_a_node_whose_port_was_taken_gets_another(nodes):
    found, ports, start = nodes
    with socket.create_server((LOOPBACK, 0)) as other:
        start(other.getsockname()[1])
        ports.append(usable_port())
        found.check(least=1)
    assert found.running["site-0"].port == ports[-1] and found.running["site-0"].poll() is None


def test_a_node_that_ended_by_itself_is_told(nodes):
    found, _, start = nodes
    start(usable_port())
    found.running["site-0"].ended = True
    with pytest.raises(StudyFailedError, match=r"site-0: its SuperNode ended by itself, exit status 1"):
        found.check(least=1)
