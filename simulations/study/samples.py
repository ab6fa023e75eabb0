"""A few images of each site for the report: real ones, and those that it released."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.data import SiteData
from fedkr.release import read_slice
from fedkr.report.samples import SiteSamples

# Enough for the report's grids; the release itself stays in the run folder.
SHOWN = 400


def collect_samples(results: Mapping[str, Any], run_dir: Path, sites: Mapping[str, SiteData]) -> dict[str, SiteSamples]:
    """Return some real and some released images of each site; only a simulation has both in one place."""
    samples = {}
    for name, paths in results.get("releases", {}).items():
        train, (images, soft) = sites[name].train, read_slice(run_dir / paths[0], 0)
        labels = soft.argmax(axis=1)
        real, released = first_of_each_class(train.labels, SHOWN), first_of_each_class(labels, SHOWN)
        samples[name] = SiteSamples(
            list(train.classes), train.images[real], train.labels[real], images[released], labels[released]
        )
    return samples


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return indices of at most ``count`` examples, as many of each class as possible, first ones first."""
    rank = np.zeros(len(labels), np.int64)
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        rank[members] = np.arange(len(members))
    return np.argsort(rank, kind="stable")[:count]
