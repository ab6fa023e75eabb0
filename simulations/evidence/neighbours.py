"""``neighbours``: images between neighbours of a class (SMOTE, Chawla et al. 2002), a generator without training.

It stands for a trained one where many sets of releases are compared by their labels alone. It keeps the private images
and draws near them: it is for measurements, never for a release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.data.distances import small_pixels
from fedkr.data.images import ImageSet
from fedkr.generators.base import Knobs, Task
from fedkr.learning.job import Job
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact


@dataclass
class Options:
    """How many neighbours of its class an image may be blended with."""

    neighbours: int = 5


class Generator:
    """See :class:`fedkr.generators.base.Generator`."""

    def __init__(self, task: Task, options: Options) -> None:
        self.task, self.options = task, options
        self.images: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.labels: NDArray[np.int64] = np.zeros(0, np.int64)

    def fit(self, data: ImageSet, job: Job, save: Callable[[int, Artifact], None], state: Artifact | None) -> None:
        """Keep the images."""
        tensors = {"images": torch.from_numpy(data.images.copy()), "labels": torch.from_numpy(data.labels.copy())}
        save(self.task.config.steps, Artifact(tensors, {"step": self.task.config.steps}))
        job.progress.finish("generator")

    def load(self, artifact: Artifact) -> None:
        """Take the images."""
        self.images, self.labels = artifact.tensors["images"].numpy(), artifact.tensors["labels"].numpy()

    def prune(self, artifact: Artifact) -> Artifact:
        """Return the checkpoint as it is."""
        return artifact

    def default_knobs(self) -> Knobs:
        """Return no knobs."""
        return {}

    def knob_candidates(self) -> list[Knobs]:
        """Return no settings."""
        return []

    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield images on the way, at most half of it, from an image to one of its neighbours, shifted by a pixel."""
        near = {label: self._near(int(label)) for label in np.unique(labels)}
        for start in range(0, len(labels), 256):
            rng = numpy_rng(*seed, start)
            yield np.stack([self._between(*near[label], rng) for label in labels[start : start + 256]])

    def _near(self, label: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = self.images[self.labels == label]
        pixels = small_pixels(images)
        distances = _squares(pixels)
        return images, np.argsort(distances, axis=1, kind="stable")[:, 1 : 1 + self.options.neighbours]

    def _between(
        self, images: NDArray[np.uint8], near: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        number, weight = int(rng.integers(len(images))), float(rng.uniform(0.2, 0.5))
        own = images[number].astype(np.float32)
        other = images[int(rng.choice(near[number]))].astype(np.float32) if near.shape[1] else own
        blend = np.rint(own * (1 - weight) + other * weight).astype(np.uint8)
        return np.roll(blend, tuple(rng.integers(-1, 2, 2)), axis=(0, 1)) if self.task.shape.size > 8 else blend


def _squares(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.square(pixels).sum(axis=1)
    return np.maximum(lengths[:, None] + lengths[None] - 2 * pixels @ pixels.T, 0)
