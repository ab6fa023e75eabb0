"""The generator ``moments``: each class a normal distribution of public components.

It learns a site's images by a few sums, so that noise in these makes all of it differentially private, at sites where
training with noisy gradients would learn nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.config import Count, at_most
from fedkr.data.components import Components
from fedkr.data.images import ImageSet
from fedkr.generators import base
from fedkr.generators.base import Knobs, Task
from fedkr.generators.moments.statistics import Units, measure
from fedkr.learning.job import Job
from fedkr.privacy.accountant import mu_of
from fedkr.privacy.noise import seed_bytes
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact

STAGE = "generator"
SAMPLE_BATCH = 256


@dataclass
class Options:
    """Options of ``moments``: how many ``components``, the lowest frequencies, images are made of; fewer if smaller."""

    components: Annotated[Count, at_most(128)] = 48


class Generator(base.Generator):
    """A normal distribution a class; see :class:`fedkr.generators.base.Generator`.

    With the task's ``privacy`` its one checkpoint is (epsilon, delta)-differentially private, for one patient more or
    less in ``data`` where that has groups, else for one image: ``counts [K]``, the deviation ``count_noise`` of their
    noise, ``means [K, D]`` and ``factors [K, D, D]``. All the noise comes from the job's seed, whose holder could take
    it out again.
    """

    def __init__(self, task: Task, options: Options) -> None:
        self.task, self.components = task, Components(task.shape, min(options.components, task.shape.size**2))
        self.means, self.factors = np.zeros((0, 0)), np.zeros((0, 0, 0))

    def fit(self, data: ImageSet, job: Job, save: Callable[[int, Artifact], None], state: Artifact | None) -> None:
        """Measure ``data`` and save the one checkpoint."""
        if state is None:
            save(1, self._measured(data, job))
        job.progress.finish(STAGE)

    def _measured(self, data: ImageSet, job: Job) -> Artifact:
        values = self.components.of_images(data.images)
        units = Units.of(values, data.labels, len(data.classes), data.groups)
        privacy = self.task.privacy
        mu = mu_of(privacy.epsilon, privacy.delta) if privacy.guaranteed else None
        moments = measure(units, self.components.longest, mu, seed_bytes(*job.seed))
        found = {
            "counts": moments.counts,
            "count_noise": np.array(moments.count_noise),
            "means": moments.means,
            "factors": np.linalg.cholesky(moments.covariances),
        }
        return Artifact({name: torch.from_numpy(value) for name, value in found.items()}, {"step": 1})

    def load(self, artifact: Artifact) -> None:
        """Take means and factors."""
        self.means, self.factors = (artifact.tensors[name].numpy() for name in ("means", "factors"))

    def prune(self, artifact: Artifact) -> Artifact:
        """Keep all: nothing in it is for training alone."""
        return artifact

    def default_knobs(self) -> Knobs:
        """There are none."""
        return {}

    def knob_candidates(self) -> list[Knobs]:
        """There are none."""
        return [{}]

    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 ``[B, H, W, C]`` for ``labels``."""
        for start in range(0, len(labels), SAMPLE_BATCH):
            chunk = labels[start : start + SAMPLE_BATCH]
            drawn = numpy_rng(*seed, start).standard_normal((len(chunk), self.means.shape[1]))
            spread = np.einsum("nij,nj->ni", self.factors[chunk], drawn)
            yield self.components.to_images(self.means[chunk] + spread)
