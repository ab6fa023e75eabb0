"""Knowledge Recycling with a guarantee: all that a release holds of images is a differentially private generator.

Whatever else the usual pipeline makes of private images has no place here. Nothing is chosen or labelled by them: the
generator's last checkpoint draws, by its own knobs, an image's label is the class that it was drawn for, and size,
class shares and the classes left out follow noisy counts.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DP_SGD, GUARANTEED_GENERATORS, Study
from fedkr.data.images import ImageSet, SiteData, content_digest
from fedkr.errors import UserError
from fedkr.fingerprint import fingerprint
from fedkr.learning.job import Job
from fedkr.recycle.drawer import Labeller
from fedkr.recycle.pipeline import SitePipeline
from fedkr.recycle.terms import NO_TERMS, Terms
from fedkr.stages import Artifact, StageStore, code_version

# So many standard deviations of its noise must a count be above the least: a class without images has none to draw.
MARGIN = 2.0


class GuaranteedPipeline(SitePipeline):
    """A site's pipeline under ``privacy.mode=dp``; see :class:`fedkr.recycle.pipeline.SitePipeline`.

    Only training images are read: those of its ``terms``, else of the training split. Of the site's ``terms`` it also
    takes what they ask of soft labels, the least count of a class, which is held against the noisy ones, and the secret
    that the noise comes from. Near-copies are not looked for: that would be another use of the images.
    """

    def __init__(
        self, site: str, data: SiteData, study: Study, stages: StageStore, job: Job, terms: Terms = NO_TERMS
    ) -> None:
        super().__init__(site, data, study, stages, job, terms)
        self.terms = dataclasses.replace(terms, is_copy=None, names={}, withheld=())
        self.least = max(terms.least, study.recycle.min_class_count)
        # The generator sees all classes: which have few images is for the noisy counts to say.
        self.kept, self.left_out = np.arange(len(data.train.classes)), []

    def generator_images(self) -> ImageSet:
        """Return the training images, of all classes."""
        return self.data.train if self.terms.train is None else self.terms.train

    def generator_job(self) -> Job:
        """Return the job whose seed makes the noise: of another secret for other images or another mechanism.

        The same noise on other images would give the difference away, and other noise on the same images halves it.
        """
        if self.terms.secret is None:
            return super().generator_job()
        study = self.study
        known = {name: dataclasses.asdict(part) for name, part in (("g", study.generator), ("p", study.privacy))}
        name = fingerprint(known | {"images": content_digest(self.generator_images()), "code": code_version()})
        if GUARANTEED_GENERATORS[study.generator.kind] == DP_SGD:
            # Sums are made again to the last digit or nearly; a training only where it was made before.
            name = fingerprint({"name": name, "training": self._training(name)})
        return dataclasses.replace(self.job, seed=(self.terms.secret(name),))

    def _training(self, name: str) -> str:
        """Return the number of the training of this name that this workspace has: another one is another answer."""
        drawn = lambda: Artifact({}, {"number": secrets.token_hex(16)})  # noqa: E731
        return str(self.stages.run("private-training", {"name": name}, drawn).info["number"])

    def _generator_key(self) -> dict[str, Any]:
        made: dict[str, Any] = {"site": self.site, "noise": fingerprint(self.generator_job().seed)}
        made["measured"] = content_digest(self.generator_images())
        for name in ("generator", "privacy"):
            made[name] = dataclasses.asdict(getattr(self.study, name))
        # A hospital trains once in a workspace, whatever else a study says.
        return made if self.terms.secret else made | self.job.describe() | {"threads": self.study.threads}

    def _release_key(self, round_number: int, max_images: int | None) -> dict[str, Any]:
        made = {"generator": self._generator_key(), "least": self.terms.least}
        return super()._release_key(round_number, max_images) | made

    def choose(self) -> dict[str, Any]:
        """Return the last checkpoint, where the training ended; no image is asked."""
        found: dict[str, Any] = {"checkpoint": self.last_checkpoint(), "knobs": {}, "by_val": False}
        return found | {"checkpoints": [], "tuning": [], "recalls": [], "seconds": 0.0}

    def last_checkpoint(self) -> int:
        """Train the generator, if it is not; return the step of its last checkpoint."""
        return max(self.generator_checkpoints())

    def class_counts(self) -> NDArray[np.int64]:
        """Return int64 ``[K]``, noisy: units of each class, 0 for those that are left out.

        Raises:
            UserError: no class has enough.
        """
        kept = self.checkpoint(self.last_checkpoint()).tensors
        noisy, least = kept["counts"].numpy(), self.least + MARGIN * float(kept["count_noise"])
        counts = np.where(noisy >= least, noisy.round(), 0).astype(np.int64)
        if not counts.any():
            raise UserError(
                f"by the noisy counts no class has {least:.0f} patients or images, {self.least} and what noise makes "
                "of none; nothing is released: add images or raise privacy.epsilon"
            )
        return counts

    def undrawn(self) -> NDArray[np.intp]:
        """Return the classes that no released image is drawn of, by the noisy counts: the generator is trained here."""
        return np.flatnonzero(self.class_counts() == 0)

    def _release_labeller(self) -> Labeller | None:
        return None

    def manifest(self) -> dict[str, Any]:
        """Return what a release says of how it was made: the guarantee, and no figure of any image."""
        left_out = [self.data.train.classes[k] for k in self.undrawn()]
        return {
            "site": self.site,
            "left_out": left_out,
            "checkpoint": self.last_checkpoint(),
            "privacy": self.guarantee(),
        }

    def quality(self, round_number: int, max_images: int | None) -> dict[str, Any]:
        """Return nothing: every figure would be another use of the images."""
        return {}

    def guarantee(self) -> dict[str, Any]:
        """Return what holds of all releases together, as the manifest has it.

        That is of a training split as it is, and of the releases that this code makes of it: after images or code
        changed, the noise is another, and a site's ledger composes both.
        """
        privacy, grouped = self.study.privacy, self.data.train.groups is not None
        return {
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "unit": "patient" if grouped else "image",
            "mechanism": GUARANTEED_GENERATORS[self.study.generator.kind],
        }


def pipeline_class(study: Study) -> type[SitePipeline]:
    """Return the class of a site's pipeline in a study."""
    return GuaranteedPipeline if study.privacy.guaranteed else SitePipeline
