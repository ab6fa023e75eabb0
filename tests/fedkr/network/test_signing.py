"""Signed bundles and the hub that hands them out."""

import asyncio
import dataclasses
import json
import subprocess
import sys

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from fedkr.errors import UserError
from fedkr.network.certificates import make_node_key, make_signing_key
from fedkr.network.hub import make_hub
from fedkr.network.signing import SignedBundle, read_publisher, read_signing_key

BUNDLE = SignedBundle("@fedkr/fedkr==0.1.0", b"the bundle")


@pytest.fixture
def pair(tmp_path):
    return make_signing_key(tmp_path, "publisher")


@pytest.fixture
def signed(pair):
    return BUNDLE.signed("us", read_signing_key(pair.private))


def test_a_signature_is_of_these_bytes_by_this_key_and_this_time(signed, pair, tmp_path):
    (signature,) = signed.signatures
    key = load_ssh_public_key(pair.public.read_bytes())
    assert signature.is_by(key, signed.content)
    assert not signature.is_by(key, signed.content + b".")
    assert not dataclasses.replace(signature, signed_at=signature.signed_at + 1).is_by(key, signed.content)
    assert not dataclasses.replace(signature, signature="no base64 \u00e9").is_by(key, signed.content)
    assert not signature.is_by(load_ssh_public_key(make_signing_key(tmp_path, "other").public.read_bytes()), b"")


def test_a_bundle_can_have_several_publishers_and_one_of_a_name(signed, tmp_path):
    other = make_signing_key(tmp_path, "other")
    both = signed.signed("hospital", read_signing_key(other.private)).signed("us", read_signing_key(other.private))
    assert [signature.publisher for signature in both.signatures] == ["hospital", "us"]
    assert both.signatures[1] != signed.signatures[0]


def test_a_bundle_is_read_as_it_was_written_and_not_when_it_was_changed(signed, tmp_path):
    signed.write(tmp_path / "bundle")
    assert SignedBundle.read(tmp_path / "bundle") == signed
    (tmp_path / "bundle" / "fedkr.fab").write_bytes(b"another")
    with pytest.raises(UserError, match="not the bundle that was signed"):
        SignedBundle.read(tmp_path / "bundle")
    (tmp_path / "bundle" / "signatures.json").write_text(json.dumps({"app": "x", "signatures": [{"a": 1}]}))
    with pytest.raises(UserError, match="not a bundle's signatures"):
        SignedBundle.read(tmp_path / "bundle")
    with pytest.raises(UserError, match="build the bundle first"):
        SignedBundle.read(tmp_path)


def test_only_an_ed25519_key_signs_and_is_listed(tmp_path):
    node = make_node_key(tmp_path, "node")
    with pytest.raises(UserError, match="not an Ed25519 key; make one with: ssh-keygen"):
        read_signing_key(node.private)
    with pytest.raises(UserError, match="cannot be read"):
        read_signing_key(tmp_path / "missing")
    with pytest.raises(UserError, match="no OpenSSH private key"):
        read_signing_key(node.public)
    for text in (node.public.read_text(), "ssh-ed25519 AAAA", ""):
        with pytest.raises(UserError, match=r"site\.yaml: publishers\.us is no Ed25519 public key"):
            read_publisher("us", text, "site.yaml")


def test_keys_of_the_usual_tool_are_read(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    signature = BUNDLE.signed("us", read_signing_key(tmp_path / "key")).signatures[0]
    assert signature.is_by(read_publisher("us", (tmp_path / "key.pub").read_text(), "x"), BUNDLE.content)


def ask_hub(signed, method, path, **arguments):
    async def once():
        transport = httpx.ASGITransport(make_hub(signed))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(once())


def test_the_hub_says_where_the_bundle_is_and_who_signed_it(signed):
    asked = {"app_id": "@fedkr/fedkr", "app_version": "0.1.0", "flwr_version": "1.42.0"}
    found = ask_hub(signed, "POST", "/hub/fetch-fab", json=asked).json()
    assert ask_hub(signed, "GET", found["fab_url"]).content == signed.content
    (verification,) = found["verifications"]
    assert verification == signed.signatures[0].as_verification()


def test_the_hub_has_no_other_app(signed):
    for asked in ({"app_id": "@fedkr/other", "app_version": "0.1.0"}, {"app_id": "@fedkr/fedkr"}, {}):
        assert ask_hub(signed, "POST", "/hub/fetch-fab", json=asked).status_code == 404


@pytest.mark.parametrize("module", ["gate", "hub", "signing", "certificates"])
def test_no_process_of_the_network_loads_torch(module):
    code = f"import sys, fedkr.network.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
