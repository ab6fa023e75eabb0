"""The gate, in this process and through its real port: what reaches the SuperLink and what does not."""

import asyncio
import http.server
import ssl
import threading
import urllib.parse

import httpx
import pytest

from fedkr.network.certificates import make_server_certificate
from fedkr.network.gate import MOST_BYTES, make_gate


class Echo(http.server.BaseHTTPRequestHandler):
    """Stands in for the SuperLink: answers with what it was asked, and remembers it."""

    protocol_version = "HTTP/1.1"
    asked: list = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, body, dict(self.headers)))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-From", "superlink")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_server_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1", "localhost")


@pytest.fixture
def superlink(files):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Echo.asked = []
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def ask(superlink, files):
    """Ask the gate in this process; ``raw`` is the path as it stands in the request line."""
    gate = make_gate(superlink, files.authority)

    async def once(method, raw, content=b"", **headers):
        path, _, query = raw.partition("?")

        async def as_it_stands(scope, receive, send):
            # httpx tidies paths; a server hands on what came over the wire.
            wire = {"raw_path": path.encode(), "path": urllib.parse.unquote(path), "query_string": query.encode()}
            await gate(scope | wire, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(as_it_stands), base_url="https://gate") as client:
            return await client.request(method, "/", content=content, headers=headers)

    def ask(*arguments, **headers):
        return asyncio.run(once(*arguments, **headers))

    return ask


def test_what_a_supernode_asks_reaches_the_superlink_byte_for_byte_and_so_does_the_answer(ask):
    body = bytes(range(256)) * 40_000
    answer = ask("POST", "/v1/fleet/push-object", body, **{"X-Flower-Signature": "abc", "Connection": "x"})
    assert (answer.status_code, answer.content, answer.headers["x-from"]) == (201, body, "superlink")
    ((path, sent, headers),) = Echo.asked
    names = {name.lower(): value for name, value in headers.items()}
    assert (path, sent, names["x-flower-signature"]) == ("/v1/fleet/push-object", body, "abc")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/health", "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/x",
        "/v1/fleet", "/v1/fleet/", "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run", "/v1/fleet//control", "//v1/fleet/pull-messages", "/v1/fleet/a/b",
        "/V1/FLEET/pull-messages", "/v1/fleet/pull-messages?x=1", "/v1/fleet/pull-messages%00", "/v1/fleet/a%0d%0a",
        "/v1/fleet/pull-messages;x", "/v1/./fleet/pull-messages", "/x/../v1/fleet/pull-messages",
    ],
)  # fmt: skip
def test_every_other_path_is_forbidden_and_never_reaches_the_superlink(ask, path):
    assert ask("POST", path).status_code == 403
    assert Echo.asked == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_every_other_method_is_forbidden(ask, method):
    assert ask(method, "/v1/fleet/pull-messages").status_code in (403, 405)
    assert Echo.asked == []


def test_a_body_without_a_length_or_too_long_is_refused(ask):
    assert ask("POST", "/v1/fleet/push-object", **{"Content-Length": str(MOST_BYTES + 1)}).status_code == 413
    assert ask("POST", "/v1/fleet/push-object", **{"Content-Length": "many"}).status_code == 411
    assert ask("POST", "/v1/fleet/push-object", **{"Content-Length": "0" * 4999 + "3"}).status_code == 411
    assert Echo.asked == []


def test_a_header_that_connection_names_ends_at_the_gate_but_for_the_length(ask):
    named = {"X-Hop": "1", "X-End": "2", "Connection": "x-hop, Content-Length"}
    assert ask("POST", "/v1/fleet/push-object", b"abc", **named).content == b"abc"
    ((_, sent, headers),) = Echo.asked
    names = {name.lower() for name in headers}
    assert (sent, "x-end" in names, "x-hop" in names) == (b"abc", True, False)


def test_a_superlink_that_is_gone_is_an_answer_of_its_own(files):
    async def once():
        gate = make_gate("127.0.0.1:9", files.authority)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="https://gate") as client:
            return await client.post("/v1/fleet/pull-messages", content=b"x")

    assert asyncio.run(once()).status_code == 502
