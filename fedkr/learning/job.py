"""What every piece of work is handed: where it computes, whom it reports to, which mirror images are real, its seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress, SilentProgress

Seed = tuple[object, ...]


@dataclass(frozen=True)
class Job:
    """The companions of a training, drawing or scoring.

    Attributes:
        runtime: device and precision.
        progress: long loops report to it.
        flip: the axes along which a mirrored image is as real: ``none``, ``horizontal`` or ``both``.
        seed: parts of the seed (:func:`fedkr.seeds.derive_seed`); nothing else is random.
    """

    runtime: Runtime
    progress: Progress = field(default_factory=SilentProgress)
    flip: str = "none"
    seed: Seed = ()

    def seeded(self, *parts: object) -> Job:
        """Return the job with further parts of the seed."""
        return replace(self, seed=(*self.seed, *parts))

    def describe(self) -> dict[str, str]:
        """Return what results depend on beside the seed, as stage keys name it."""
        return {"flip": self.flip, **self.runtime.describe()}
