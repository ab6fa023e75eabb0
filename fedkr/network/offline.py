"""The environment of Flower's processes: nothing but the SuperLink is contacted, and nothing is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import fedkr

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Where it is there, gRPC looks at no other.
OF_GRPC = "no_grpc_proxy"
# Flower asks its makers for updates and tells them of runs, and installs packages, unless it is told not to.
OFFLINE = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def direct_loopback() -> dict[str, str]:
    """Return the variables that keep calls to this machine itself away from the proxy that it may have."""
    known = ",".join(filter(None, (os.environ.get(name) for name in ("no_proxy", "NO_PROXY"))))
    exempt = {"no_proxy": known, "NO_PROXY": known}
    own = os.environ.get(OF_GRPC)
    exempt |= {} if own is None else {OF_GRPC: own}
    return {
        name: ",".join(dict.fromkeys([*filter(None, hosts.split(",")), *LOOPBACK])) for name, hosts in exempt.items()
    }


def _without_socks(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables without proxies that Flower's HTTP library fails at, even where it would not call them."""
    if importlib.util.find_spec("socksio") is not None:
        return dict(environment)
    proxies = {name for name in environment if name.lower().endswith("_proxy")}
    return {name: text for name, text in environment.items() if name not in proxies or not text.startswith("socks")}


def flower_environment(home: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a process of Flower's.

    Flower starts its helpers by bare name, so the interpreter's folder leads PATH; and the installed package has to be
    importable from an empty folder.

    Args:
        home: Flower's own folder for this process.
        extra: further variables.
    """
    # Their output goes to files and to us, whatever terminal this is.
    values = {**_without_socks(os.environ), **direct_loopback(), **OFFLINE, "PYTHONIOENCODING": "utf-8"}
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
    package_root = str(Path(fedkr.__file__).absolute().parents[1])
    values["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, values.get("PYTHONPATH", "")]))
    return values | {"FLWR_HOME": str(home), **extra}
