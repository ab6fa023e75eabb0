"""``centralised``: the oracle that trains on the union of all sites' private images, by the comparison's recipe."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from fedkr.config import Study
from fedkr.data import ImageSet, SiteData, joined
from fedkr.learning.job import Job
from fedkr.recycle.distill import for_union
from fedkr.recycle.tuned import train_tuned
from fedkr.stages import Artifact


def train(study: Study, sites: Collection[SiteData], job: Job) -> Artifact:
    """See :class:`simulations.study.oracles.Oracle`; tuned on the union of the sites' val splits.

    It may take the steps of one site, and those of a student of all sites in place of one of its own.
    """
    of_all = replace(study, student=for_union(study.student, len(sites)))
    return train_tuned(of_all, pooled(sites), joined([data.val for data in sites]), job, "centralised")


def pooled(sites: Iterable[SiteData]) -> ImageSet:
    """Return the union of the sites' training splits."""
    return joined([data.train for data in sites])
