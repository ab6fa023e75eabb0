"""What reference models say about the challenge set, in the shape that LiRA and RMIA share.

``target`` float ``[N, A]``: the audited model's signal for N challenge images under A augmented queries.
``references`` float ``[M, N, A]``: the same from M reference models.
``membership`` bool ``[M, N]``: which images each reference model trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def check_references(target: Floats, references: Floats, membership: Bools, *, least_in: int, least_out: int) -> None:
    """Raise :class:`UserError` unless the shapes fit and every image has enough references in and out."""
    if target.ndim != 2 or references.ndim != 3 or references.shape[1:] != target.shape:
        raise UserError(
            f"reference scores: expected [models, {', '.join(map(str, target.shape))}] as the target's [N, queries], "
            f"got shape {list(references.shape)}"
        )
    if membership.shape != references.shape[:2] or membership.dtype != np.bool_:
        raise UserError(
            f"reference membership: expected bool {list(references.shape[:2])}, "
            f"got {membership.dtype} {list(membership.shape)}"
        )
    if not (np.isfinite(target).all() and np.isfinite(references).all()):
        raise UserError("reference scores: not all finite; did a model diverge?")
    for kind, mask, least in (("with", membership, least_in), ("without", ~membership, least_out)):
        fewest = int(mask.sum(0).min()) if mask.shape[1] else 0
        if fewest < least:
            raise UserError(
                f"reference models: an image has {fewest} trained {kind} it, the attack needs {least}; train more"
            )


def masked_mean(values: Floats, mask: Bools) -> Floats:
    """Return ``[N, A]``: the mean over the models ``[M]`` that ``mask [M, N]`` picks for each image."""
    return (values * mask[:, :, None]).sum(0) / mask.sum(0)[:, None]
