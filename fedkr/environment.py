"""What a result was computed with: versions of the packages and the hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

import psutil
import torch

PACKAGES = (
    *("fedkr", "torch", "torchvision", "flwr", "ray", "diffusers", "numpy", "scipy", "scikit-learn", "medmnist"),
    "opacus",
)


def provenance() -> dict[str, Any]:
    """Return what every kept figure is published with: ``hardware`` and ``versions``."""
    return {"hardware": hardware(), "versions": package_versions()}


def package_versions() -> dict[str, str]:
    """Return the version of each package that results depend on; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def processor_capabilities() -> Mapping[str, Any]:
    """Return what PyTorch knows of this processor: nothing before version 2.11, which cannot be asked."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory in GiB and GPUs of this machine."""
    found: dict[str, Any] = {
        "processor": str(processor_capabilities().get("cpu_name", platform.machine())),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found
