"""The hub: where the SuperLink, on loopback, fetches a signed bundle; it answers as Flower's own hub does.

Flower asks for signatures only where a run is of an app from its hub (``flwr run @publisher/app``), whose address is
the variable ``FLWR_SUPERGRID_API_URL``. With this service there, ``--trusted-entities`` works in a closed network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedkr.network.signing import SignedBundle


def make_hub(bundle: SignedBundle) -> Starlette:
    """Return the hub of one signed bundle as an ASGI application."""

    async def where(request: Request) -> Response:
        """Say where the bundle is, and who signed it."""
        asked = await request.json()
        if f"{asked.get('app_id')}=={asked.get('app_version')}" != bundle.app:
            return JSONResponse({"detail": f"only {bundle.app} is here"}, 404)
        signatures = [signature.as_verification() for signature in bundle.signatures]
        return JSONResponse({"fab_url": str(request.url_for("content")), "verifications": signatures})

    async def content(_: Request) -> Response:
        """Return the bundle itself."""
        return Response(bundle.content, media_type="application/octet-stream")

    return Starlette(routes=[Route("/hub/fetch-fab", where, methods=["POST"]), Route("/bundle", content)])


def serve(host: str, port: str, folder: str) -> None:
    """Serve the signed bundle of a folder until a signal ends it."""
    uvicorn.run(make_hub(SignedBundle.read(Path(folder))), host=host, port=int(port), log_level="warning", ws="none")


if __name__ == "__main__":
    serve(*sys.argv[1:])
