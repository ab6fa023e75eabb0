"""Certificates and keys of a deployment: a certificate authority, the SuperLink's certificate, each SuperNode's key.

For several machines, make them once: the authority's and the SuperLink's keys stay at the coordinator, each hospital
makes its own node key and sends the ``.pub`` file only.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 30


@dataclass(frozen=True)
class KeyPair:
    """Two files: what may be shown (a certificate or public key), and the private key (mode 0600)."""

    public: Path
    private: Path


def make_ca(folder: Path, days: int = DAYS) -> KeyPair:
    """Make a certificate authority valid for ``days``: ``ca.crt`` and ``ca.key`` (PEM, NIST P-384)."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("fedkr certificate authority")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = _builder(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, hashes.SHA384())
    return _store(folder, "ca", certificate, key)


def make_server_certificate(folder: Path, authority: KeyPair, hosts: Sequence[str], days: int = DAYS) -> KeyPair:
    """Make the SuperLink's certificate for ``hosts`` (names or IP addresses): ``server.crt`` and ``server.key``."""
    issuer = x509.load_pem_x509_certificate(authority.public.read_bytes())
    issuer_key = serialization.load_pem_private_key(authority.private.read_bytes(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey), "make_ca makes no other kind"
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _builder(_name(hosts[0]), issuer.subject, key.public_key(), days)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(issuer_id, critical=False)
    return _store(folder, "server", builder.sign(issuer_key, hashes.SHA384()), key)


def make_node_key(folder: Path, name: str) -> KeyPair:
    """Make a SuperNode's key (NIST P-384, OpenSSH format, as Flower reads them): ``name.pub`` and ``name``."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    pair = KeyPair(folder / f"{name}.pub", folder / name)
    pair.public.write_bytes(public + f" {name}\n".encode())
    write_private(pair.private, private)
    return pair


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)


def _store(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pair = KeyPair(folder / f"{name}.crt", folder / f"{name}.key")
    pair.public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(pair.private, private)
    return pair


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of hospitals differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
