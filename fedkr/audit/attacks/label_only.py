"""The label-only attack: how far can an image be altered before the model changes its mind? (Choquette-Choo 2021)

It needs no confidences, so that a model which answers with a class alone, or whose confidences were blunted, does not
escape it. Members lie further from the decision boundary; that distance is estimated by how many altered views of an
image, with noise of growing strength or shifted and mirrored, still get the true label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Floats
from fedkr.audit.attacks.queries import MIRRORS, SHIFTS, Queries

Images = NDArray[np.uint8]
# Standard deviations of the noise in grey levels, of 255: from what hardly shows to what hides most images.
NOISE = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
DRAWS = 2


def label_only_score(
    predict: Callable[[Images], NDArray[np.floating]],
    parts: Sequence[tuple[Images, NDArray[np.int64]]],
    flip: str,
    rng: np.random.Generator,
) -> Floats:
    """Return the share of altered views float64 ``[N]`` that a model gives the true label.

    Args:
        predict: from uint8 images ``[n, H, W, C]`` to logits ``[n, K]``, of which only the largest one's place is read.
        parts: the N images and their labels, in sets that are asked about one after the other.
        flip: which mirror images are views (:class:`~fedkr.audit.attacks.queries.Queries`).
        rng: draws the noise, which is the same for every image.
    """
    noise = [rng.normal(0, level, parts[0][0].shape[1:]) for level in NOISE for _ in range(DRAWS)]
    shares = []
    for images, labels in parts:
        right = [predict(view).argmax(1) == labels for view in _views(images, noise, flip)]
        shares.append(np.mean(right, axis=0))
    return np.concatenate(shares)


def _views(images: Images, noise: Sequence[Floats], flip: str) -> Iterator[Images]:
    yield from Queries(len(SHIFTS) * len(MIRRORS[flip]), flip).views(images)
    for pattern in noise:
        yield np.rint(images + pattern).clip(0, 255).astype(np.uint8)
