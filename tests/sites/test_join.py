"""How a site becomes a SuperNode: whatever Flower writes for it, its state included, is for one account alone."""

import os
import re
import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedkr.errors import UserError
from fedkr.network.certificates import make_node_key, make_server_certificate
from sites.check import check_site
from sites.join import join_network


class Replaced(BaseException):
    """Stands for the process becoming another program."""


@pytest.fixture
def joining(hospital, tmp_path):
    """Write a site file with a whole connection; return a function that writes it again with another one."""
    publisher = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    make_server_certificate(tmp_path, "localhost")
    make_node_key(tmp_path, "site.key")

    def write(**changed):
        connection = {"coordinator": "coordinator.example:8443", "authority": "ca.crt", "key": "site.key"}
        connection |= {"publishers": {"own": publisher}} | changed
        path = hospital()
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"connection": connection}))
        return path

    return write


def test_a_connection_is_looked_through_before_a_supernode_starts(joining, monkeypatch):
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("a SuperNode would start"))
    for change, line in (
        ({"coordinator": "https://coordinator.example:8443"}, "connection.coordinator='https:.*: no HOST:PORT"),
        ({"coordinator": "coordinator.example"}, "no HOST:PORT"),
        ({"authority": "images.npz"}, "connection.authority=.*no certificate in PEM"),
        ({"key": "site.key.pub"}, "connection.key=.*no private key"),
        ({"key": "."}, "connection.key=.*cannot be read"),
        ({"publishers": {}}, r"connection\.publishers is missing"),
    ):
        path = joining(**change)
        with pytest.raises(UserError, match=line):
            join_network(path)
        assert any(re.search(line, problem) for problem in check_site(path)["problems"])


def test_a_workspace_that_cannot_be_made_is_told_before_anything_else(joining, tmp_path):
    (tmp_path / "work").write_text("a file")
    with pytest.raises(UserError, match=r"site\.yaml: .*work: cannot be written by this account"):
        join_network(joining())


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_what_the_supernode_writes_is_private_under_any_umask(joining, tmp_path, monkeypatch, umask):
    path = joining()

    def become(program, command, environment):
        Path("state.db").write_text("as Flower does")
        raise Replaced

    monkeypatch.setattr(os, "execvpe", become)
    monkeypatch.chdir(tmp_path)
    before = os.umask(umask)
    try:
        with pytest.raises(Replaced):
            join_network(path)
    finally:
        os.umask(before)
    home = tmp_path / "work" / "flower"
    assert {file.name for file in home.iterdir()} == {"state.db", "publishers.yaml"}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "work", home, *home.iterdir())}
    assert {oct(mode) for mode in modes.values()} == {"0o700", "0o600"}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
