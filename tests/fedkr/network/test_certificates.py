import ssl
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedkr.errors import UserError
from fedkr.network.certificates import (
    check_authority,
    check_node_key,
    make_node_key,
    make_server_certificate,
    make_signing_key,
)


def shake_hands(server, host, authority):
    """Let a client that trusts ``authority`` connect to ``host``, in memory; raise what it finds wrong."""
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(server.certificate, server.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=authority).wrap_bio(down, up, server_hostname=host)
    answering = there.wrap_bio(up, down, server_side=True)
    open_ends = [client, answering]
    while open_ends:
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                continue


def test_the_servers_certificate_is_valid_for_its_hosts_under_its_authority_only(tmp_path):
    (tmp_path / "other").mkdir()
    server = make_server_certificate(tmp_path, "fl.hospital.example", "127.0.0.1")
    other = make_server_certificate(tmp_path / "other", "fl.hospital.example")
    for host in ("fl.hospital.example", "127.0.0.1"):
        shake_hands(server, host, server.authority)
    for host, authority in (("fl.hospital.example", other.authority), ("127.0.0.2", server.authority)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, host, authority)


def test_a_node_key_is_a_pair_on_a_nist_curve(tmp_path):
    key = make_node_key(tmp_path, "node")
    private = load_ssh_private_key(key.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp384r1"
    assert load_ssh_public_key(key.public.read_bytes()) == private.public_key()


def test_private_keys_are_readable_by_their_owner_only(tmp_path):
    keys = [make_node_key(tmp_path, "node"), make_signing_key(tmp_path, "publisher")]
    private = [make_server_certificate(tmp_path, "localhost").key, *(pair.private for pair in keys)]
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600] * 3
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in tmp_path.iterdir() if path not in private)


def test_what_a_site_joins_with_is_known_by_its_content(tmp_path):
    node, publisher = make_node_key(tmp_path, "node"), make_signing_key(tmp_path, "publisher")
    server = make_server_certificate(tmp_path, "localhost")
    check_node_key(node.private, "key")
    check_authority(server.authority, "authority")
    (tmp_path / "junk").write_text("junk")
    for path in (tmp_path / "junk", node.public, publisher.private, server.authority, tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"^key={path}: "):
            check_node_key(path, "key")
    for path in (tmp_path / "junk", node.private, tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"^authority={path}: "):
            check_authority(path, "authority")
