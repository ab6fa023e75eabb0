"""A made-up site whose models are tables: every image is one colour, which says who it is and survives any view."""

from dataclasses import dataclass

import numpy as np
import pytest

from fedkr.data.images import CanarySet, ImageSet, SiteData

CLASSES = ("a", "b", "c")


def identify(images):
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]


@dataclass
class TableModels:
    """Models whose logits rise by ``lift`` on what they trained on, over images of very unlike hardness."""

    labels: np.ndarray
    membership: np.ndarray
    answers: np.ndarray

    def logits(self, images):
        # Noise can make a colour of an image that is none.
        ids = np.minimum(identify(images), len(self.labels) - 1)
        result = np.zeros((len(self.answers), len(ids), len(CLASSES)), np.float32)
        result[:, np.arange(len(ids)), self.labels[ids]] = self.answers[:, ids]
        return result


class World:
    def __init__(self, seed=0, members=70, nonmembers=60, canaries=0, population=60):
        self.rng = np.random.default_rng(seed)
        sizes = [members, nonmembers, canaries, population]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.labels = self.rng.integers(0, 3, self.starts[-1])
        self.hardness = self.rng.normal(0, 6, self.starts[-1])
        self.included = self.rng.random(canaries) < 0.5

    def images(self, part):
        ids = np.arange(self.starts[part], self.starts[part + 1])
        images = np.zeros((len(ids), 4, 4, 3), np.uint8)
        images[..., 0], images[..., 1] = (ids // 256)[:, None, None], (ids % 256)[:, None, None]
        return ImageSet(images, self.labels[ids], CLASSES)

    @property
    def data(self):
        """Site data whose val is the population's first half and test its second."""
        train, planted, rest = self.images(0), self.images(2), self.images(3)
        canaries = None
        if len(planted):
            canaries = CanarySet(planted.images, planted.labels, self.included, np.zeros(len(planted), np.int64))
            chosen = np.flatnonzero(self.included)
            train = ImageSet(
                np.concatenate([train.images, planted.images[chosen]]),
                np.concatenate([train.labels, planted.labels[chosen]]),
                CLASSES,
            )
        half = len(rest) // 2
        val, test = rest.subset(np.arange(half)), rest.subset(np.arange(half, len(rest)))
        return SiteData(train, val, test, self.images(1), canaries)

    def target(self, lift=2.0):
        inside = np.zeros(len(self.labels), bool)
        inside[: self.starts[1]] = True
        inside[self.starts[2] : self.starts[3]] = self.included
        model = self._models(inside[None], lift)
        return lambda images: model.logits(images)[0]

    def references(self, models=8, lift=2.0):
        count = self.starts[3]
        half = np.repeat(np.arange(models)[:, None] < models // 2, count, axis=1)
        membership = self.rng.permuted(half, axis=0)
        inside = np.concatenate([membership, np.zeros((models, len(self.labels) - count), bool)], axis=1)
        found = self._models(inside, lift)
        found.membership = membership
        return found

    def _models(self, inside, lift):
        noise = self.rng.normal(0, 1, inside.shape)
        return TableModels(self.labels, inside, (self.hardness + lift * inside + noise).astype(np.float32))


@pytest.fixture(scope="session")
def make_world():
    """The class of made-up sites: call it with sizes and a seed."""
    return World
