"""Keys of a deployment: the SuperLink's certificate with its authority's, each SuperNode's key, a publisher's key."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class ServerFiles(NamedTuple):
    """What a SuperLink is given: its authority's certificate, which the nodes need too, its own, and its key."""

    authority: Path
    certificate: Path
    key: Path


class KeyPair(NamedTuple):
    """The files of a key pair, a SuperNode's or a publisher's; only the public one is shown to anyone."""

    public: Path
    private: Path


def make_server_certificate(folder: Path, *hosts: str) -> ServerFiles:
    """Make a certificate for ``hosts`` (names or IP addresses), by an authority whose key is kept nowhere."""
    authority = trustme.CA()
    server = authority.issue_cert(*hosts)
    files = ServerFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    authority.cert_pem.write_to_path(files.authority)
    server.cert_chain_pems[0].write_to_path(files.certificate)
    server.private_key_pem.write_to_path(make_private(files.key))
    return files


def make_node_key(folder: Path, name: str) -> KeyPair:
    """Make a SuperNode's key (NIST P-384, OpenSSH format, as Flower reads them): ``name.pub`` and ``name``."""
    return _write_pair(ec.generate_private_key(ec.SECP384R1()), folder, name)


def make_signing_key(folder: Path, name: str) -> KeyPair:
    """Make a publisher's key (Ed25519, OpenSSH format), which signs bundles."""
    return _write_pair(Ed25519PrivateKey.generate(), folder, name)


def _write_pair(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, folder: Path, name: str) -> KeyPair:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    pair = KeyPair(folder / f"{name}.pub", folder / name)
    pair.public.write_bytes(public)
    make_private(pair.private).write_bytes(private)
    return pair


def make_private(path: Path) -> Path:
    """Make an empty file that only its owner can read, in place of any that is there; return its path."""
    path.unlink(missing_ok=True)
    path.touch(0o600, exist_ok=False)
    return path
