"""What models and releases are called in the ledger, and what the offset of their figures comes from: 64 hex digits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from torch import Tensor

from fedkr import wire
from fedkr.config import Study
from sites.studies import study_digest


def model_name(study: Study, weights: Mapping[str, Tensor]) -> str:
    """Return 64 hex digits of a classifier: the same whoever sends it, in whatever study."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}
    parts = [
        (name, a.dtype.str, a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for name, a in sorted(arrays.items())
    ]
    return digest([dataclasses.asdict(study.student), parts])


def own_name(study: Study, kind: str) -> str:
    """Return 64 hex digits of what a site makes for itself in a study: its ``teacher``, ``local`` or ``release``."""
    return digest([study_digest(study), kind])


def personal_name(study: Study, request: wire.Request) -> str:
    """Return 64 hex digits of what a site makes of the images or weights that it was sent: another for others."""
    sent = [str(request.settings.get(name)) for name in ("contestant", wire.OFFER)]
    if request.weights is not None:
        sent.append(model_name(study, request.weights))
    return digest([study_digest(study), "personal", *sent, *shared_names(request)])


def shared_names(request: wire.Request) -> list[str]:
    """Return 64 hex digits of each array of other sites' releases in a request."""
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in request.shared or ()]


def digest(value: object) -> str:
    """Return 64 hex digits of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
