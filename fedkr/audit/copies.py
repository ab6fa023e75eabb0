"""The copy check: whether a release holds near-copies of members, as counts that may leave and pairs that may not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from fedkr.audit.attacks.on_releases import CopyCheck, copy_check
from fedkr.audit.challenge import Challenge
from fedkr.audit.run_release import released_part
from fedkr.audit.statistics.membership import Floats
from fedkr.data.distances import nearest, small_pixels
from fedkr.data.images import ImageSet, image_digests
from fedkr.errors import UserError
from fedkr.release import Release
from fedkr.stages import Artifact

# A clean release is flagged this often at most.
LEVEL = 0.01
PAIRS_KEPT = 24


@dataclass(frozen=True)
class CopyFigures:
    """Counts of a copy check. "Close" is closer than all but 1 % of the members are to their nearest other member.

    Attributes:
        released: images checked.
        suspects: of them, those close to a member.
        verbatim: of them, those equal to a member byte by byte.
        holdout: images of the holdout, the measure of what chance gives.
        holdout_near: of them, those close to a member.
        members, members_found: members (with groups: patients), and those that a released image is close to.
        nonmembers, nonmembers_found: the same of the holdout.
    """

    released: int
    suspects: int
    verbatim: int
    holdout: int
    holdout_near: int
    members: int
    members_found: int
    nonmembers: int
    nonmembers_found: int

    @property
    def share(self) -> float:
        """Share of the released images that are close to a member."""
        return self.suspects / self.released

    @property
    def chance_share(self) -> float:
        """The same share of fresh real images."""
        return self.holdout_near / self.holdout

    @property
    def p_value(self) -> float:
        """One-sided Fisher test that released images are not close to members more often than to non-members.

        It counts private images, which are independent of one another (with groups: patients), and not released ones,
        which are not. A generator that draws smooth, typical images comes close to both alike and copies neither, so
        ``share`` against ``chance_share`` alone would accuse it.
        """
        table = [
            [self.members_found, self.members - self.members_found],
            [self.nonmembers_found, self.nonmembers - self.nonmembers_found],
        ]
        return float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)

    @property
    def flagged(self) -> bool:
        """Whether the test finds copies at the 1 % level."""
        return self.p_value < LEVEL

    def counts(self, site: str) -> dict[str, Any]:
        """Return the row that leaves the site: counts alone."""
        return {"site": site} | vars(self)

    @staticmethod
    def of_counts(row: Mapping[str, Any]) -> CopyFigures:
        """Read what :meth:`counts` made."""
        return CopyFigures(**{field.name: row[field.name] for field in dataclasses.fields(CopyFigures)})

    def as_row(self, site: str) -> dict[str, Any]:
        """Return the row of ``audit_extras.copies``: the counts, and what follows from them."""
        derived = {"share": self.share, "chance_share": self.chance_share, "p_value": self.p_value}
        return self.counts(site) | derived | {"flagged": int(self.flagged)}


@dataclass(frozen=True)
class ClosestPairs:
    """Members and the released image closest to each, closest first, every member once: for the site's own eyes only.

    Attributes:
        members, released: uint8 ``[n, H, W, C]``.
        labels: int64 ``[n]``, of the members.
        distances: float64 ``[n]``, Euclidean, of pixels in 0..1.
    """

    members: NDArray[np.uint8]
    released: NDArray[np.uint8]
    labels: NDArray[np.int64]
    distances: Floats


@dataclass(frozen=True)
class ReleaseCopies:
    """A copy check's counts, which may leave the site, and what may not: suspects by name and the closest pairs.

    ``suspects.released`` are indices into all released images, round after round; ``suspects.members`` into the
    challenge's members.
    """

    figures: CopyFigures
    suspects: CopyCheck
    pairs: ClosestPairs

    def as_artifact(self) -> Artifact:
        """Return the check as a stage keeps it."""
        arrays = {f"suspects-{name}": getattr(self.suspects, name) for name in ("released", "members", "distances")}
        arrays |= {f"pairs-{name}": array for name, array in vars(self.pairs).items()}
        of_suspects = {"threshold": self.suspects.threshold, "share": self.suspects.share}
        info = {"figures": vars(self.figures), "suspects": of_suspects, "pairs": {}}
        return Artifact({name: torch.from_numpy(array) for name, array in arrays.items()}, info)

    @staticmethod
    def from_artifact(artifact: Artifact) -> ReleaseCopies:
        """Read what :meth:`as_artifact` made."""
        parts = {name: dict(artifact.info[name]) for name in ("figures", "suspects", "pairs")}
        for name, tensor in artifact.tensors.items():
            part, _, field = name.partition("-")
            parts[part][field] = tensor.numpy()
        figures, suspects, pairs = parts.values()
        return ReleaseCopies(CopyFigures(**figures), CopyCheck(**suspects), ClosestPairs(**pairs))


def check_copies(releases: Sequence[Release], challenge: Challenge, *, site: str, seed: int) -> ReleaseCopies:
    """Compare all that a site released with its members, and its holdout in the place of both, pixel by pixel.

    There is one release a round; of very many images a random part is checked.

    Raises:
        UserError: no release, one of another image shape, or fewer than two members.
    """
    try:
        (images, _), chosen = released_part(releases, challenge, site=site, seed=seed)
        released, members, holdout = map(small_pixels, (images, challenge.members.images, challenge.nonmembers.images))
        check = copy_check(members, released)
    except UserError as error:
        raise UserError(f"copy check at {site}: {error}") from None
    closest, member_distance = nearest(members, released)
    nonmember_distance = nearest(holdout, released)[1]
    known = set(image_digests(challenge.members.images))
    figures = CopyFigures(
        released=len(images),
        suspects=len(check.released),
        verbatim=sum(digest in known for digest in image_digests(images)),
        holdout=len(holdout),
        holdout_near=int((nearest(holdout, members)[1] <= check.threshold).sum()),
        members=_units(challenge.members),
        members_found=_units(challenge.members, member_distance <= check.threshold),
        nonmembers=_units(challenge.nonmembers),
        nonmembers_found=_units(challenge.nonmembers, nonmember_distance <= check.threshold),
    )
    suspects = dataclasses.replace(check, released=chosen[check.released])
    shown = np.argsort(member_distance, kind="stable")[:PAIRS_KEPT]
    of_members = challenge.members.subset(shown)
    pairs = ClosestPairs(of_members.images, images[closest[shown]], of_members.labels, member_distance[shown])
    return ReleaseCopies(figures, suspects, pairs)


def _units(images: ImageSet, chosen: NDArray[np.bool_] | None = None) -> int:
    """Return how many images, or with groups how many groups, there are among the chosen ones (all if None)."""
    if images.groups is None:
        return len(images) if chosen is None else int(chosen.sum())
    return len(np.unique(images.groups if chosen is None else images.groups[chosen]))
