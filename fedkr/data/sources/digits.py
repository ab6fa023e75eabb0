"""The embedded dataset: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from fedkr.config import DataConfig
from fedkr.data.images import ImageSet
from fedkr.data.registry import Source, set_apart_test


def load(config: DataConfig) -> Source:
    """Return the digits (Alpaydin & Kaynak 1998, UCI), grey levels 0 to 16 scaled to 0 to 255."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    everything = ImageSet(images, digits.target.astype(np.int64), tuple(str(digit) for digit in range(10)))
    return set_apart_test(everything, config.test_fraction, "digits")
