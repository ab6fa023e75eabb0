"""The area under the ROC curve, of classifiers and of attacks alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def area_under_roc(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Return the probability that one of ``positives [n]`` is above one of ``negatives [m]``; a tie counts half.

    scikit-learn's ``roc_auc_score`` gives the same (a test compares them), but takes over a second to import, which
    every process of a deployment, one a message, would wait for.
    """
    ordered = np.sort(negatives)
    below, not_above = (np.searchsorted(ordered, positives, side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))
