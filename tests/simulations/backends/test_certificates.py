import stat

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store

from simulations.backends.certificates import make_ca, make_node_key, make_server_certificate


def test_the_servers_certificate_is_valid_for_its_hosts_under_its_authority_only(tmp_path):
    authority = make_ca(tmp_path)
    server = make_server_certificate(tmp_path, authority, ["fl.hospital.example", "127.0.0.1"])
    certificate = x509.load_pem_x509_certificate(server.public.read_bytes())
    store = Store([x509.load_pem_x509_certificate(authority.public.read_bytes())])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("fl.hospital.example"))
    assert next(iter(verifier.verify(certificate, []))).subject == certificate.subject
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_node_key_is_a_pair_on_a_nist_curve(tmp_path):
    pair = make_node_key(tmp_path, "node")
    private = load_ssh_private_key(pair.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp384r1"
    assert load_ssh_public_key(pair.public.read_bytes()) == private.public_key()


def test_private_keys_are_readable_by_their_owner_only(tmp_path):
    authority = make_ca(tmp_path)
    pairs = [authority, make_server_certificate(tmp_path, authority, ["localhost"]), make_node_key(tmp_path, "node")]
    assert [stat.S_IMODE(pair.private.stat().st_mode) for pair in pairs] == [0o600] * 3
