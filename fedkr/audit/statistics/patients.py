"""Membership of a patient as a unit: the strongest evidence that any one of the patient's images gives.

Whoever asks whether a patient took part has several images of the same person to try, and needs to succeed with one
(range membership inference, Tao & Shokri 2024, with the maximum over the range). Patients with more images score higher
by that alone; the split between members and holdout draws whole patients at random, so that on average it is the same
on both sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.resampling import Floats, unit_index


def strongest_of_each(scores: Floats, groups: NDArray[np.int64]) -> Floats:
    """Return float64 ``[P]``, in the order of their numbers: each group's (patient's) highest score.

    Scores are float ``[n]`` of the images of one side, ``groups`` int64 ``[n]``.

    Raises:
        UserError: groups of other images than the scores are of.
    """
    units = unit_index(scores, groups)
    strongest = np.full(int(units.max()) + 1, -np.inf)
    np.maximum.at(strongest, units, scores)
    return strongest
