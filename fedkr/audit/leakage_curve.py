"""The leakage curve: how utility and leakage of a student move with the amount of synthetic data it learns from.

Every point of the curve trains on images of one and the same drawing: a site's synthetic images come in slices as
large as its training split, a ratio takes the first images of them as one fixed set, and regeneration rounds take the
first slices in turn. So points differ by what they are named after, and not by the luck of another drawing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline
from fedkr.recycle.drawer import one_hot
from fedkr.release import SoftSet
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact

RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)
ROUNDS = (1.0, 2.0, 4.0, 8.0)
LABELS = ("soft", "hard")
RATIO, REGENERATION = "ratio", "rounds"


@dataclass(frozen=True)
class CurvePoint:
    """One student of the curve.

    Attributes:
        sweep: ``ratio`` (one fixed set) or ``rounds`` (fresh sets of ratio 1, in turn).
        value: images of the set as a multiple of the training images, or the number of sets.
        labels: ``soft`` (the teacher's, as released) or ``hard`` (the class that was asked for).
    """

    sweep: str
    value: float
    labels: str

    @property
    def slices(self) -> int:
        """How many slices of ratio 1 the point needs."""
        return math.ceil(self.value)

    @property
    def training(self) -> CurvePoint:
        """The point that stands for the same training: one round is a fixed set of ratio 1."""
        return CurvePoint(RATIO, 1.0, self.labels) if self.slices == self.value == 1 else self


@dataclass(frozen=True)
class SyntheticSlices:
    """One site's synthetic images, slice after slice.

    Attributes:
        images: uint8 ``[S * n, H, W, C]``.
        soft: float16 ``[S * n, K]``, the teacher's labels.
        asked: int64 ``[S * n]``, the class that each image was drawn for.
        size: n, images of a slice.
    """

    images: NDArray[np.uint8]
    soft: NDArray[np.float16]
    asked: NDArray[np.int64]
    size: int

    def part(self, start: int, stop: int, labels: str) -> SoftSet:
        """Return images ``start`` to ``stop`` with labels ``[N, K]`` of one of ``LABELS``."""
        images = self.images[start:stop]
        if labels == "soft":
            return SoftSet(images, self.soft[start:stop])
        return SoftSet(images, one_hot(self.asked[start:stop], self.soft.shape[1]).astype(np.float16))

    def as_artifact(self) -> Artifact:
        """Return the slices as a stage keeps them."""
        arrays = {"images": self.images, "soft": self.soft, "asked": self.asked}
        return Artifact({name: torch.from_numpy(array) for name, array in arrays.items()}, {"size": self.size})

    @staticmethod
    def from_artifact(artifact: Artifact) -> SyntheticSlices:
        """Read what :meth:`as_artifact` made."""
        images, soft, asked = (artifact.tensors[name].numpy() for name in ("images", "soft", "asked"))
        return SyntheticSlices(images, soft, asked, artifact.info["size"])


def curve_points() -> list[CurvePoint]:
    """Return the curve's points, sweep after sweep."""
    sweeps = {RATIO: RATIOS, REGENERATION: ROUNDS}
    return [CurvePoint(sweep, value, kind) for sweep, values in sweeps.items() for kind in LABELS for value in values]


def draw_slices(pipeline: SitePipeline, count: int) -> SyntheticSlices:
    """Return ``count`` slices of ratio 1 from the pipeline's chosen generator, labelled by its teacher; a stage."""
    key = pipeline.choice_key() | {"slices": count}

    def compute() -> Artifact:
        parts = _draw(pipeline, count)
        images, soft, asked = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return SyntheticSlices(images, soft.astype(np.float16), asked, int(pipeline.class_counts().sum())).as_artifact()

    return SyntheticSlices.from_artifact(pipeline.stages.run("leakage-slices", key, compute))


def training_sets(point: CurvePoint, sites: Sequence[SyntheticSlices]) -> Callable[[int], SoftSet]:
    """Return the union of the sites' sets that the point's student learns from, by regeneration round 0, 1, ..."""

    def draw(number: int) -> SoftSet:
        first, share = (0, point.value) if point.sweep == RATIO else (number % point.slices, 1.0)
        parts = []
        for site in sites:
            start = first * site.size
            parts.append(site.part(start, start + max(1, round(share * site.size)), point.labels))
        return SoftSet.union(parts)

    if point.sweep != RATIO:
        return draw
    fixed = draw(0)
    return lambda number: fixed


def _draw(pipeline: SitePipeline, count: int) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Return images, soft labels and asked classes of each slice."""
    drawer, progress, parts = pipeline.drawer("leakage"), pipeline.job.progress, []
    drawer = dataclasses.replace(drawer, job=dataclasses.replace(drawer.job, progress=SilentProgress()))
    for number in range(count):
        asked = drawer.classes(int(pipeline.class_counts().sum()), numpy_rng(*drawer.job.seed, number, "labels"))
        parts.append((*drawer.draw(asked, number), asked))
        progress.update("leakage slices", number + 1, count, unit="slice")
    progress.finish("leakage slices")
    return parts
