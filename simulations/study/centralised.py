"""``centralised``: the oracle that trains on the union of all sites' private images, by the comparison's recipe."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fedkr.config import Study
from fedkr.data import ImageSet, SiteData, joined
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job


def train(study: Study, sites: Iterable[SiteData], job: Job) -> nn.Module:
    """See :class:`simulations.study.oracles.Oracle`."""
    return train_on_real(study.student, pooled(sites), job, "centralised")


def pooled(sites: Iterable[SiteData]) -> ImageSet:
    """Return the union of the sites' training splits."""
    return joined([data.train for data in sites])
