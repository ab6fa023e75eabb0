"""Bundles that publishers signed: what a SuperNode with ``--trusted-entities`` runs, and all that it runs.

A bundle is the file that Flower ships to the sites. The same version of fedkr builds the same bytes everywhere, so a
site that does not trust a publisher can build it itself, compare, and sign it with a key of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedkr.errors import UserError

BUNDLE_FILE, SIGNATURES_FILE = "fedkr.fab", "signatures.json"


@dataclass(frozen=True)
class Signature:
    """A publisher's signature (Ed25519) of a bundle.

    Attributes:
        publisher: the name under which sites list the publisher's public key.
        signature: in URL-safe base64 without padding, as Flower reads it.
        signed_at: seconds since 1970.
    """

    publisher: str
    signature: str
    signed_at: int

    def as_verification(self) -> dict[str, str | int]:
        """Return the signature as Flower's hub gives it out."""
        return {"public_key_id": self.publisher, "signature": self.signature, "signed_at": self.signed_at}

    def is_by(self, key: Ed25519PublicKey, content: bytes) -> bool:
        """Whether it was made of these bytes by the owner of a public key."""
        padded = self.signature + "=" * (-len(self.signature) % 4)
        try:
            key.verify(base64.urlsafe_b64decode(padded), _message(content, self.signed_at))
        except (InvalidSignature, ValueError, OverflowError):
            return False
        return True


@dataclass(frozen=True)
class SignedBundle:
    """A bundle with the signatures that it has so far.

    Attributes:
        app: as ``flwr run`` names it, ``@publisher/app==version``.
        content: the file's bytes.
        signatures: of these bytes.
    """

    app: str
    content: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the bundle: the same wherever this version of fedkr built it."""
        return hashlib.sha256(self.content).hexdigest()

    def signed(self, publisher: str, key: Ed25519PrivateKey) -> SignedBundle:
        """Return the bundle with a publisher's signature, in place of an earlier one of the same name."""
        now = int(time.time())
        signature = base64.urlsafe_b64encode(key.sign(_message(self.content, now))).rstrip(b"=").decode()
        others = [other for other in self.signatures if other.publisher != publisher]
        return SignedBundle(self.app, self.content, (*others, Signature(publisher, signature, now)))

    def write(self, folder: Path) -> None:
        """Write bundle and signatures to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BUNDLE_FILE).write_bytes(self.content)
        about = {"app": self.app, "sha256": self.digest, "signatures": [asdict(one) for one in self.signatures]}
        (folder / SIGNATURES_FILE).write_text(json.dumps(about, indent=2), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> SignedBundle:
        """Read what :meth:`write` left; raise :class:`UserError` where that is missing or was changed since."""
        path = folder / SIGNATURES_FILE
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            signatures = tuple(Signature(**one) for one in about["signatures"])
            bundle = SignedBundle(about["app"], (folder / BUNDLE_FILE).read_bytes(), signatures)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror}); build the bundle first") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a bundle's signatures ({error}); build the bundle again") from None
        if bundle.digest != about.get("sha256"):
            raise UserError(f"{folder / BUNDLE_FILE}: not the bundle that was signed; build it again")
        return bundle


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a publisher's private key (OpenSSH, Ed25519, without passphrase); raise :class:`UserError` for any other."""
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path}: no OpenSSH private key without passphrase ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: not an Ed25519 key; make one with: ssh-keygen -t ed25519 -N '' -f {path.name}")
    return key


def read_publisher(name: str, text: str, where: str) -> Ed25519PublicKey:
    """Return a publisher's public key from its OpenSSH line; raise :class:`UserError` that begins with ``where``."""
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{where}: publishers.{name} is no Ed25519 public key (a line 'ssh-ed25519 AAAA...')")
    return key


def _message(content: bytes, signed_at: int) -> bytes:
    """Return what is signed: Flower's canonical message, the time in 8 bytes and the bundle's SHA-256."""
    return signed_at.to_bytes(8, byteorder="big") + hashlib.sha256(content).digest()
