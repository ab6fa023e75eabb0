"""Addresses that people write in files and commands."""

from __future__ import annotations

from fedkr.errors import UserError


def read_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; raise :class:`UserError` for anything else, such as an URL."""
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{text!r}: no HOST:PORT, such as 0.0.0.0:8443 or coordinator.example:8443")
    return host, int(port)
