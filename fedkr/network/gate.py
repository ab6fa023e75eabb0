"""The gate: a coordinator's one public port. It passes on what SuperNodes ask of the SuperLink, and nothing else.

Flower serves its Control API (register a node, start a run, read logs) without authentication on the very port of the
Fleet API that SuperNodes use. So the SuperLink listens on loopback, and this reverse proxy stands before it.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

# A path without dots, escapes or doubled slashes: nothing that two servers could read in two ways.
FLEET_PATH = re.compile(rb"/v1/fleet/[a-z]+(-[a-z]+)*")
# Flower cuts what it sends into objects of 5 MB.
MOST_BYTES = 32 * 2**20
# Python reads no number of thousands of digits.
LENGTH = re.compile("[0-9]{1,10}")
# Each hop has its own (RFC 9110, section 7.6.1); Host is set for the SuperLink.
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "proxy-connection"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]


def make_gate(superlink: str, authority: Path) -> Starlette:
    """Return the gate as an ASGI application.

    Args:
        superlink: ``HOST:PORT`` on loopback.
        authority: certificate of the authority that signed the SuperLink's.
    """
    link = httpx.AsyncClient(
        base_url=f"https://{superlink}",
        verify=ssl.create_default_context(cafile=str(authority)),
        timeout=httpx.Timeout(60.0),
        limits=httpx.Limits(max_connections=None),
        trust_env=False,  # loopback is never reached through a proxy
    )

    async def answer(request: Request) -> Response:
        """Pass a request on, or refuse it."""
        refusal = why_refused(request)
        if refusal is not None:
            return refusal
        asked = link.build_request(
            "POST", request.url.path, headers=_end_to_end(request.headers), content=request.stream()
        )
        try:
            found = await link.send(asked, stream=True)
        except httpx.HTTPError:
            return PlainTextResponse("the SuperLink does not answer\n", 502)
        return StreamingResponse(
            found.aiter_raw(), found.status_code, _end_to_end(found.headers), background=BackgroundTask(found.aclose)
        )

    return Starlette(routes=[Route("/{path:path}", answer, methods=METHODS)])


def why_refused(request: Request) -> Response | None:
    """Return the answer to a request that is no SuperNode's, None for one that may pass."""
    path: bytes = request.scope["raw_path"]
    if request.method != "POST" or request.scope["query_string"] or not FLEET_PATH.fullmatch(path):
        return PlainTextResponse("only SuperNodes are served here\n", 403)
    length = request.headers.get("content-length", "")
    if not LENGTH.fullmatch(length):
        return PlainTextResponse("a request must say its length\n", 411)
    if int(length) > MOST_BYTES:
        return PlainTextResponse(f"a request has at most {MOST_BYTES} bytes\n", 413)
    return None


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers without a hop's own, which are also those that Connection names; no body loses its length."""
    named = {
        part.strip()
        for name, value in headers.items()
        if name.lower() == "connection"
        for part in value.lower().split(",")
    }
    dropped = HOP_BY_HOP | named - {"content-length"}
    return {name: value for name, value in headers.items() if name.lower() not in dropped}


def serve(host: str, port: str, superlink: str, authority: str, certificate: str, key: str) -> None:
    """Serve the gate with TLS until a signal ends it."""
    uvicorn.run(
        make_gate(superlink, Path(authority)),
        host=host, port=int(port), ssl_certfile=certificate, ssl_keyfile=key,
        log_level="warning", server_header=False, proxy_headers=False, ws="none", timeout_graceful_shutdown=2,
    )  # fmt: skip


if __name__ == "__main__":
    serve(*sys.argv[1:])
