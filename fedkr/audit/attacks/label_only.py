"""The label-only attack: how far can an image be altered before the model changes its mind? (Choquette-Choo 2021)

It needs no confidences, so that a model which answers with a class alone, or whose confidences were blunted, does not
escape it. Members lie further from the decision boundary; that distance is estimated by how many altered views of an
image, with noise of growing strength or shifted and mirrored, still get the true label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Floats
from fedkr.audit.attacks.queries import MIRRORS, SHIFTS, Queries

Images = NDArray[np.uint8]
# Standard deviations of the noise in grey levels, of 255: from what hardly shows to what hides most images.
NOISE = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
DRAWS = 2
IMAGES_AT_ONCE = 256


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
    right = [np.zeros(len(images)) for images, _ in parts]

    def ask(views: Callable[[Images], Iterable[Images]]) -> None:
        for (images, labels), found in zip(parts, right, strict=True):
            # Block by block: each view takes as much memory again as what it is made of.
            for start in range(0, len(images), IMAGES_AT_ONCE):
                part = slice(start, start + IMAGES_AT_ONCE)
                for view in views(images[part]):
                    found[part] += predict(view).argmax(1) == labels[part]

    ask(Queries(len(SHIFTS) * len(MIRRORS[flip]), flip).views)
    for level in NOISE:
        for _ in range(DRAWS):
            pattern = rng.normal(0, level, parts[0][0].shape[1:]).astype(np.float32)
            ask(partial(_noisy, pattern=pattern))
    views = len(SHIFTS) * len(MIRRORS[flip]) + len(NOISE) * DRAWS
    return np.concatenate(right) / views


def _noisy(images: Images, pattern: NDArray[np.float32]) -> list[Images]:
    return [np.rint(images + pattern).clip(0, 255).astype(np.uint8)]
