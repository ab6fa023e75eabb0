"""How a site becomes a SuperNode: whatever Flower writes for it, its state included, is for one account alone."""

import os
import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sites.join import join_network


class Replaced(BaseException):
    """Stands for the process becoming another program."""


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_what_the_supernode_writes_is_private_under_any_umask(hospital, tmp_path, monkeypatch, umask):
    publisher = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    connection = {"coordinator": "coordinator.example:8443", "authority": "ca.crt", "key": "site.key"}
    for name in ("ca.crt", "site.key"):
        (tmp_path / name).write_text("any")
    path = hospital()
    site = yaml.safe_load(path.read_text()) | {"connection": connection | {"publishers": {"own": publisher}}}
    path.write_text(yaml.safe_dump(site))

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
