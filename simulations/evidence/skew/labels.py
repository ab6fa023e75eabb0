"""What is made of the teachers' labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedkr.recycle.drawer import one_hot
from server.consensus import consensus, rows
from simulations.evidence.skew.federation import BySite, Federation, Floats, Site
from simulations.evidence.skew.ways import Way

# A teacher is sure of a class as far as n / (n + KNOWN) of its n images of it go.
KNOWN = 20.0


def released(federation: Federation, way: Way) -> BySite:
    """The teacher's soft labels."""
    return {site.name: site.soft_labels(way.teacher, way.draw) for site in federation.sites}


def asked_for(federation: Federation, way: Way) -> BySite:
    """Half the teacher's label, half the class that the image was drawn for."""
    return _mixed(federation, way, lambda site, classes: np.full(len(classes), 0.5))


def as_far_as_known(federation: Federation, way: Way) -> BySite:
    """The teacher's label as far as it met the class that the image was drawn for, and else that class."""
    return _mixed(federation, way, lambda site, classes: site.counts[classes] / (site.counts[classes] + KNOWN))


def _mixed(federation: Federation, way: Way, trust: Callable[[Site, NDArray[np.int64]], NDArray[np.float64]]) -> BySite:
    mixed = dict[str, Floats]()
    for site in federation.sites:
        classes = site.drawn(way.draw)[0]
        own = trust(site, classes)[:, None]
        mixed[site.name] = own * site.soft_labels(way.teacher, way.draw) + (1 - own) * one_hot(
            classes, len(site.counts)
        )
    return mixed


def for_the_union(federation: Federation, way: Way) -> BySite:
    """The labels of a teacher that knows no class shares, with those of all sites' images together."""
    shares = np.sum([site.counts for site in federation.sites], axis=0) + 1.0
    return {site: rows(own * shares / shares.sum()) for site, own in released(federation, way).items()}


LABELS: Mapping[str, Callable[[Federation, Way], BySite]] = {
    "released": released,
    "asked": asked_for,
    "known": as_far_as_known,
    "union": for_the_union,
    "consensus": lambda f, way: dict(consensus(released(f, way), f.seen(way))),
}
