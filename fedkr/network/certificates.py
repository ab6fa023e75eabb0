"""Keys of a deployment: the SuperLink's certificate with its authority's, each SuperNode's key, a publisher's key."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from cryptography.x509 import load_pem_x509_certificates

from fedkr.errors import UserError


class ServerFiles(NamedTuple):
    """What a SuperLink is given: its authority's certificate, which the nodes need too, its own, and its key."""

    authority: Path
    certificate: Path
    key: Path


class KeyPair(NamedTuple):
    """The files of a key pair, a SuperNode's or a publisher's; only the public one is shown to anyone."""

    public: Path
    private: Path


class Issued(NamedTuple):
    """A certificate with its authority's, not on the disk yet."""

    authority: trustme.CA
    server: trustme.LeafCert

    def write(self, folder: Path) -> ServerFiles:
        """Write both, and the server's key, into a folder; the authority's key is kept nowhere."""
        files = ServerFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
        self.authority.cert_pem.write_to_path(files.authority)
        self.server.cert_chain_pems[0].write_to_path(files.certificate)
        self.server.private_key_pem.write_to_path(make_private(files.key))
        return files


def issue_certificate(*hosts: str) -> Issued:
    """Return a certificate for ``hosts`` (names or IP addresses); raise :class:`UserError` for one that is neither."""
    authority = trustme.CA()
    for host in hosts:
        try:
            if {*host} & {*"/@"}:
                raise ValueError("as in an URL or a network")
            authority.issue_cert(host)
        except ValueError as error:
            raise UserError(
                f"{host!r}: no name or address of a machine ({error}); write it without scheme and port"
            ) from None
    return Issued(authority, authority.issue_cert(*hosts))


def make_server_certificate(folder: Path, *hosts: str) -> ServerFiles:
    """Write a certificate for ``hosts``, as :func:`issue_certificate` makes it, into a folder that is there."""
    return issue_certificate(*hosts).write(folder)


def make_node_key(folder: Path, name: str) -> KeyPair:
    """Make a SuperNode's key (NIST P-384, OpenSSH format, as Flower reads them): ``name.pub`` and ``name``."""
    return _write_pair(ec.generate_private_key(ec.SECP384R1()), folder, name)


def check_node_key(path: Path, where: str) -> None:
    """Raise :class:`UserError`, which begins with ``where``, for a file that is no key that a SuperNode joins with."""
    try:
        key = load_ssh_private_key(_content(path, where), None)
    except TypeError:
        raise UserError(f"{where}={path}: has a password, and Flower asks for none; make a key without") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{where}={path}: no private key ({error}); `fedkr site key` makes one") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{where}={path}: no key of the kind that Flower takes (NIST EC); `fedkr site key` makes one")


def check_authority(path: Path, where: str) -> None:
    """Raise :class:`UserError`, which begins with ``where``, for a file that is no certificate."""
    try:
        load_pem_x509_certificates(_content(path, where))
    except ValueError as error:
        raise UserError(f"{where}={path}: no certificate in PEM ({error}); the coordinator has it as ca.crt") from None


def _content(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}={path}: cannot be read ({error.strerror})") from None


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
