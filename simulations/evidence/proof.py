"""What every part of the audit's proof works with: data, stages, runtime, and figures that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.config import DataConfig
from fedkr.data import ImageSet, Source, content_digest, load_source
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress
from fedkr.stages import Artifact, StageStore

Figures = dict[str, Any]
XRAYS = "pneumoniamnist"


@dataclass(frozen=True)
class Bench:
    """Where a proof finds its data and keeps what it has computed.

    Attributes:
        root: folder of the public datasets' files.
        stages: keeps the figures of every seed, so that an interrupted proof goes on.
        runtime: device, precision and threads of all training.
        progress: every step is reported to it.
    """

    root: Path
    stages: StageStore
    runtime: Runtime
    progress: Progress

    def source(self, name: str) -> Source:
        """Return a public dataset from ``root``."""
        return load_source(DataConfig(name=name, root=str(self.root)).located())

    def once(self, part: str, key: dict[str, Any], compute: Callable[[], Figures]) -> Figures:
        """Return figures, computed only where no stage of ``part`` holds them yet."""
        depends = key | self.runtime.describe()
        return self.stages.run(f"proof-{part}", depends, lambda: Artifact(info=compute())).info


def official_train(source: Source) -> ImageSet:
    """Return the training split of a dataset's makers, without their val split."""
    return source.pool.subset(np.arange(len(source.pool) - source.val))


def dealt(data: ImageSet, counts: list[int], rng: np.random.Generator) -> list[ImageSet]:
    """Return disjoint random parts of ``data`` with ``counts`` images each."""
    order, ends = rng.permutation(len(data)), np.cumsum(counts)
    return [data.subset(order[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def digest_of(*parts: ImageSet) -> list[str]:
    """Return what names these images in a stage's key."""
    return [content_digest(part) for part in parts]
