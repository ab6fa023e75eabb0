"""Keys of a deployment on loopback: the SuperLink's certificate with its authority's, and each SuperNode's key."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class ServerFiles(NamedTuple):
    """What a SuperLink is given: its authority's certificate, which the nodes need too, its own, and its key."""

    authority: Path
    certificate: Path
    key: Path


def make_server_certificate(folder: Path, *hosts: str) -> ServerFiles:
    """Make a certificate for ``hosts`` (names or IP addresses), by an authority whose key is kept nowhere."""
    authority = trustme.CA()
    server = authority.issue_cert(*hosts)
    files = ServerFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    authority.cert_pem.write_to_path(files.authority)
    server.cert_chain_pems[0].write_to_path(files.certificate)
    server.private_key_pem.write_to_path(make_private(files.key))
    return files


def make_node_key(folder: Path, name: str) -> Path:
    """Make a SuperNode's keys, ``name`` and ``name.pub`` (NIST P-384, OpenSSH, as Flower has them); return ``name``."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (folder / f"{name}.pub").write_bytes(public)
    make_private(folder / name).write_bytes(private)
    return folder / name


def make_private(path: Path) -> Path:
    """Make an empty file that only its owner can read, in place of any that is there; return its path."""
    path.unlink(missing_ok=True)
    path.touch(0o600, exist_ok=False)
    return path
