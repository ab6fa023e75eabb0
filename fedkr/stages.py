"""Stages on disk: each finished piece of work is one safetensors file, named by what it depends on.

The file holds tensors and, in its metadata, one JSON document. It is written under a temporary name, flushed and
renamed, so a file that exists is whole: a killed process leaves nothing that a restart could mistake for a result.
A workspace outlives the code that filled it, so every name holds the version of that code (:func:`code_version`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedkr.disk import write_atomic
from fedkr.environment import package_versions
from fedkr.errors import UserError
from fedkr.fingerprint import fingerprint

# What an error repeats of what a file's reader says, which quotes the file.
LONGEST_REASON = 200
HOUSE = Path(__file__).parents[1]
# Of this code, what computes no stage; of the libraries, those whose versions change numbers.
COMPUTES_NOTHING = ("benchmarks", "report", "cli.py", "progress.py")
# Of a digest, in a file's name: 128 bits, which nobody makes meet, and room for the longest names of sites and targets.
NAME_DIGITS = 32
LIBRARIES = ("torch", "torchvision", "diffusers", "numpy", "scipy", "scikit-learn", "flwr", "opacus")


@lru_cache
def code_version(house: Path = HOUSE) -> str:
    """Return 64 hex digits of the code that computes stages: the source of all three floors, and library versions.

    Nobody has to bump it: any change of a source file does, but for those of pages, timing and commands. So a
    workspace never answers with what older code made; it computes again.
    """
    digest = hashlib.sha256()
    for floor in ("fedkr", "sites", "server"):
        for path in sorted((house / floor).rglob("*.py")):
            if path.relative_to(house).parts[1] not in COMPUTES_NOTHING:
                digest.update(f"{path.relative_to(house)}\0".encode() + path.read_bytes())
    versions = package_versions()
    digest.update(json.dumps([(name, versions.get(name)) for name in LIBRARIES]).encode())
    return digest.hexdigest()


@dataclass
class Artifact:
    """What a stage leaves behind: named tensors and a JSON-able document."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def artifact_bytes(artifact: Artifact) -> bytes:
    """Return ``artifact`` as the bytes of its file."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in artifact.tensors.items()}
    return save(tensors, {"info": json.dumps(artifact.info)})


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Write ``artifact`` to ``path`` atomically; raise :class:`UserError` when the disk refuses."""
    write_atomic(path, artifact_bytes(artifact))


def read_artifact(path: Path) -> Artifact:
    """Read what :func:`write_artifact` wrote; raise :class:`UserError` for a file that is none."""
    try:
        with safe_open(path, framework="pt") as handle:
            info = read_info(handle.metadata())
            return Artifact({name: handle.get_tensor(name) for name in handle.keys()}, info)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = ascii(str(error)[:LONGEST_REASON])
        raise UserError(f"{path}: not a readable stage file ({reason}); delete it to compute it again") from None


def read_info(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the document in a file's metadata; raise :class:`ValueError` for one that is no JSON object."""
    try:
        info = json.loads((metadata or {}).get("info", "{}"))
    except RecursionError:
        raise ValueError("its document is nested without end") from None
    if not isinstance(info, dict):
        raise ValueError("its document is no JSON object")
    return info


class StageStore:
    """A folder of finished stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, stage: str, depends: Mapping[str, Any]) -> Path:
        """Return the file of a stage: its name and a digest of all that it depends on, the code's version included."""
        digest = fingerprint({"code": code_version(), **depends})
        return self.folder / f"{stage}-{digest[:NAME_DIGITS]}.safetensors"

    def run(self, stage: str, depends: Mapping[str, Any], compute: Callable[[], Artifact]) -> Artifact:
        """Return the stage's artifact, computing it only when its file is not there yet."""
        path = self.path(stage, depends)
        if path.exists():
            return read_artifact(path)
        artifact = compute()
        write_artifact(path, artifact)
        return artifact


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return a detached copy of the model's state, ready to be stored or sent."""
    return {name: value.detach().clone().cpu() for name, value in model.state_dict().items()}
