"""What the audited model and the reference models say about the same images, in the shape that LiRA and RMIA share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Observed:
    """A membership signal of N challenge images under A augmented queries.

    Attributes:
        target: float ``[N, A]``, of the audited model.
        references: float ``[M, N, A]``, of M reference models.
        membership: bool ``[M, N]``, which images each reference model trained on.

    Raises:
        UserError: shapes that do not fit together, or a signal that is not finite.
    """

    target: Floats
    references: Floats
    membership: Bools

    def __post_init__(self) -> None:
        target, references, membership = self.target, self.references, self.membership
        if target.ndim != 2 or references.ndim != 3 or references.shape[1:] != target.shape:
            raise UserError(
                f"reference scores: expected [models, {', '.join(map(str, target.shape))}] as the target's "
                f"[N, queries], got shape {list(references.shape)}"
            )
        if membership.shape != references.shape[:2] or membership.dtype != np.bool_:
            raise UserError(
                f"reference membership: expected bool {list(references.shape[:2])}, "
                f"got {membership.dtype} {list(membership.shape)}"
            )
        if not (np.isfinite(target).all() and np.isfinite(references).all()):
            raise UserError("reference scores: not all finite; did a model diverge?")

    def require(self, *, inside: int, outside: int) -> None:
        """Raise :class:`UserError` unless each image has so many references trained with it and without it."""
        for kind, mask, least in (("with", self.membership, inside), ("without", ~self.membership, outside)):
            fewest = int(mask.sum(0).min()) if mask.shape[1] else 0
            if fewest < least:
                raise UserError(
                    f"reference models: an image has {fewest} trained {kind} it, the attack needs {least}; train more"
                )

    def mean(self, mask: Bools) -> Floats:
        """Return ``[N, A]``: each image's mean over the references that ``mask [M, N]`` picks for it."""
        return (self.references * mask[:, :, None]).sum(0) / mask.sum(0)[:, None]

    def squares(self, mask: Bools) -> Floats:
        """Return ``[N, A]``: each image's sum of squares around :meth:`mean`, over the same references."""
        return ((self.references - self.mean(mask)) ** 2 * mask[:, :, None]).sum(0)
