"""Images that several releases share: they teach once, and no release outweighs the others by its size.

Who released an image first proves nothing: a site may hold back its answer, or get another's images by other ways. So
nobody is a suspect for sharing; each shared image teaches once, by the mean of what the sites say of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.data.distances import Floats, nearest, small_pixels
from fedkr.release import ReleasedSets, SoftSet, image_count, read_slice, slice_count
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact

# Of two sites that share, one's images lie on the other's by more than this share.
MOST_SHARED = 0.1
# An image lies on another that is nearer than this part of the usual distance between images of one release.
OF_SPACING = 1 / 20
# So many images of a release are looked for among another's.
MOST_IMAGES = 1000
# A release teaches by so many times the median of the sites' numbers of images at most. Among 60 partitions of digits
# over five sites by Dirichlet(0.1) the largest site had 4.4 times the median.
MOST_TIMES = 5

# What the names of tensors begin with.
KEPT, LABEL = "kept/", "labels/"

Flags = NDArray[np.bool_]


def sharing_sites(sets: Mapping[str, ReleasedSets]) -> list[tuple[str, str]]:
    """Return the pairs of sites of whose releases one largely lies on the other, some noise aside."""
    # No site knows the others' images, so none knows which of its own are looked for.
    draw = numpy_rng("sharing", *sorted(own.digest() for own in sets.values()))
    samples = {site: small_pixels(sample(own, MOST_IMAGES, draw).images) for site, own in sets.items()}
    usual = {site: spacing(rows) for site, rows in samples.items()}
    pairs = set()
    for other, own in sets.items():
        parts = (small_pixels(own(number).images) for number in range(len(own)))
        closest = {site: np.full(len(rows), np.inf) for site, rows in samples.items() if site != other}
        for part in parts:
            for site in closest:
                closest[site] = np.minimum(closest[site], nearest(samples[site], part)[1])
        for site, distances in closest.items():
            if (distances <= min(usual[site], usual[other]) * OF_SPACING).mean() > MOST_SHARED:
                pairs.add((min(site, other), max(site, other)))
    return sorted(pairs)


def sample(sets: ReleasedSets, most: int, draw: np.random.Generator) -> SoftSet:
    """Draw as many images of each slice of each exchange, ``most`` in all."""
    return SoftSet.union([sample_part(sets(number), most // len(sets), draw) for number in range(len(sets))])


def sample_part(part: SoftSet, most: int, draw: np.random.Generator) -> SoftSet:
    """Draw images of one set, one at least."""
    kept = np.sort(draw.permutation(len(part.images))[: max(1, most)])
    return SoftSet(part.images[kept], part.soft_labels[kept])


def spacing(rows: Floats) -> float:
    """Return the median distance of an image from the nearest other one; 0 for a single image."""
    return float(np.median(nearest(rows, rows, itself=False)[1])) if len(rows) > 1 else 0.0


@dataclass
class Part:
    """What of a site's released images teaches.

    Attributes:
        paths: its files, one an exchange.
        sizes: images of each slice of each file, one file after the other.
        kept: which images teach, bool ``[N]``.
        labels: by which soft labels, float64 ``[N, K]``; None while they are those of the release.
        opinions: of so many sites each label is the mean, int64 ``[N]``.
    """

    paths: Sequence[Path]
    sizes: list[int] = field(init=False)
    kept: Flags = field(init=False)
    labels: NDArray[np.float64] | None = None
    opinions: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = [len(part.images) for part in self.slices()]
        self.kept = np.ones(sum(self.sizes), dtype=np.bool_)
        self.opinions = np.ones(len(self.kept), dtype=np.int64)

    def slices(self) -> list[SoftSet]:
        """Return the slices as they lie in the files."""
        return [read_slice(path, number) for path in self.paths for number in range(slice_count(path))]

    @property
    def is_whole(self) -> bool:
        """Whether the release teaches as it came."""
        return bool(self.kept.all()) and self.labels is None

    def keep(self, images: Flags) -> None:
        """Leave out all but some images; one of each slice stays, as a student wants a set every round."""
        starts = np.cumsum([0, *self.sizes[:-1]])
        for start, size in zip(starts, self.sizes, strict=True):
            part = self.kept[start : start + size]
            first = start + int(part.argmax())
            part &= images[start : start + size]
            if not part.any():
                self.kept[first] = True

    def by_file(self) -> dict[str, torch.Tensor]:
        """Return which images teach, and their labels where they changed, by the names of the files."""
        cuts = np.cumsum([image_count(path) for path in self.paths])[:-1]
        tensors = {}
        for number, path in enumerate(self.paths):
            tensors[KEPT + path.name] = torch.from_numpy(np.split(self.kept, cuts)[number])
            if self.labels is not None:
                rows = np.split(self.labels.astype(np.float16), cuts)[number]
                tensors[LABEL + path.name] = torch.from_numpy(rows)
        return tensors


def fair_parts(files: Mapping[str, Sequence[Path]], pairs: Sequence[tuple[str, str]]) -> Artifact:
    """Return what of the releases teaches, by the names of their files, where it is not all of them as they came.

    Args:
        files: each site's files, one an exchange, of the sites that teach.
        pairs: of sites that share images (:func:`sharing_sites`).

    ``info`` holds ``notes``, which say what a reader must know of it.
    """
    parts = {site: Part(paths) for site, paths in files.items()}
    notes = [*_cap(parts)]
    for one, other in pairs:
        if one in parts and other in parts:
            share = _count_once(parts[one], parts[other])
            notes.append(
                f"{one} and {other} released the same images ({share:.0%} of those of {other}): they taught once, "
                "by the mean of both sites' labels"
            )
    tensors = {name: t for part in parts.values() if not part.is_whole for name, t in part.by_file().items()}
    return Artifact(tensors, {"notes": notes})


def named(fair: Artifact, kind: str) -> dict[str, torch.Tensor]:
    """Return one kind of what :func:`fair_parts` says, by the names of the releases' files."""
    return {name.removeprefix(kind): tensor for name, tensor in fair.tensors.items() if name.startswith(kind)}


def _cap(parts: Mapping[str, Part]) -> list[str]:
    """Sample releases down that have far more images than the others'; return what was done."""
    median, notes = float(np.median([len(part.kept) for part in parts.values()])), []
    for site, part in parts.items():
        if len(part.kept) > (most := int(MOST_TIMES * median)):
            # Which images stay follows from the release alone, whose files are named by their content.
            chances = numpy_rng("cap", *(path.name for path in part.paths)).permutation(len(part.kept))
            part.keep(chances < most)
            notes.append(
                f"{site} released {len(part.kept)} images, more than {MOST_TIMES} times the sites' median: "
                f"{int(part.kept.sum())} of them taught the student"
            )
    return notes


def _count_once(one: Part, other: Part) -> float:
    """Leave out what of another release lies on images of one, which get the labels' mean; return its share."""
    on, distances = _nearest(other, one)
    usual = min(spacing(_some(part)) for part in (one, other))
    shared = np.flatnonzero((distances <= usual * OF_SPACING) & other.kept)
    labels, said = _labels(one), _labels(other)
    for image in np.unique(on[shared]):
        # However often the other repeats an image, it is one more opinion.
        opinion = said[shared[on[shared] == image]].mean(axis=0)
        labels[image] += (opinion - labels[image]) / (one.opinions[image] + 1)
        one.opinions[image] += 1
    one.labels = labels
    left = np.ones(len(other.kept), dtype=np.bool_)
    left[shared] = False
    other.keep(left)
    return len(shared) / len(left)


def _labels(part: Part) -> NDArray[np.float64]:
    if part.labels is not None:
        return part.labels
    return np.concatenate([s.soft_labels for s in part.slices()]).astype(np.float64)


def _some(part: Part) -> Floats:
    """Return some images of a release, by which its spacing is measured, as pixels."""
    images = np.concatenate([s.images for s in part.slices()])
    draw = numpy_rng("spacing", *(path.name for path in part.paths))
    return small_pixels(images[np.sort(draw.permutation(len(images))[:MOST_IMAGES])])


def _nearest(queries: Part, rows: Part) -> tuple[NDArray[np.int64], Floats]:
    """Return for each image of one release the nearest of the other's that teach, and how far it is, slice by slice."""
    found, distances = [], []
    starts = np.cumsum([0, *rows.sizes[:-1]])
    among = [np.flatnonzero(rows.kept[start : start + size]) for start, size in zip(starts, rows.sizes, strict=True)]
    for asked in queries.slices():
        pixels = small_pixels(asked.images)
        best, closest = np.zeros(len(pixels), dtype=np.int64), np.full(len(pixels), np.inf)
        for start, kept, part in zip(starts, among, rows.slices(), strict=True):
            index, distance = nearest(pixels, small_pixels(part.images[kept]))
            nearer = distance < closest
            best[nearer], closest[nearer] = start + kept[index[nearer]], distance[nearer]
        found.append(best)
        distances.append(closest)
    return np.concatenate(found), np.concatenate(distances)


def chained(pairs: Sequence[tuple[str, str]], sites: Sequence[str]) -> dict[str, str]:
    """Return by site who stands for it and all that share images with it, directly or by others."""
    party = {site: site for site in sites}
    for one, other in pairs:
        if one in party and other in party:
            old, new = party[other], party[one]
            party = {site: new if p == old else p for site, p in party.items()}
    return party
