"""Utility of a classifier (accuracy, balanced accuracy, AUC, confusion counts), and its fidelity to a teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.roc import area_under_roc


@dataclass(frozen=True)
class Utility:
    """Figures of one model on one labelled set; a figure that the set cannot give (one class only) is None."""

    accuracy: float
    balanced_accuracy: float
    auc: float | None
    loss: float
    confusion: list[int]
    count: int

    def recalls(self, least: int = 1) -> list[float | None]:
        """Return each class' recall, None for a class with fewer than ``least`` images."""
        classes = math.isqrt(len(self.confusion))
        matrix = np.array(self.confusion).reshape(classes, classes)
        totals = matrix.sum(axis=1)
        return [float(c / t) if t >= least else None for c, t in zip(matrix.diagonal(), totals, strict=True)]


def measure_utility(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Utility:
    """Return the utility of float ``logits [N, K]`` on int ``labels [N]``.

    AUC is that of the positive class for two classes, else the mean of one-against-rest over the classes present, as
    the MedMNIST evaluator has it (Yang et al. 2023). ``confusion`` is the row-major ``[K, K]`` matrix, rows the truth.
    """
    probabilities = probabilities_of(logits)
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    totals = confusion.sum(axis=1)
    recalls = confusion.diagonal()[totals > 0] / totals[totals > 0]
    truth = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)
    return Utility(
        accuracy=float(np.mean(predicted == labels)),
        balanced_accuracy=float(recalls.mean()),
        auc=_auc(probabilities, labels),
        loss=float(-np.log(truth).mean()),
        confusion=[int(n) for n in confusion.ravel()],
        count=len(labels),
    )


def measure_fidelity(student: NDArray[np.float32], teacher: NDArray[np.float32]) -> dict[str, float]:
    """Return how near a student's answers are to its teacher's, which needs no labels (Stanton et al. 2021).

    Both are logits ``[N, K]`` of the same images.

    Returns:
        ``agreement``, the share of images with the same top class, and ``divergence``, the mean Kullback-Leibler
        divergence of the student's class probabilities from the teacher's, in nats.
    """
    of_student, of_teacher = (
        torch.tensor(logits, dtype=torch.float64).log_softmax(dim=1).numpy() for logits in (student, teacher)
    )
    return {
        "agreement": float(np.mean(student.argmax(axis=1) == teacher.argmax(axis=1))),
        "divergence": float((np.exp(of_teacher) * (of_teacher - of_student)).sum(axis=1).mean()),
    }


def probabilities_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the class probabilities ``[N, K]`` of logits ``[N, K]``."""
    return torch.tensor(logits, dtype=torch.float64).softmax(dim=1).numpy()


def judged_classes(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Return the classes whose areas an AUC is the mean of: the positive one of two, else all that have images.

    None where all images are of one class.
    """
    present = [int(k) for k in np.unique(labels)]
    if len(present) < 2:
        return []
    return [1] if classes == 2 else present


def _auc(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    judged = judged_classes(labels, probabilities.shape[1])
    areas = [area_under_roc(probabilities[labels == k, k], probabilities[labels != k, k]) for k in judged]
    return float(np.mean(areas)) if areas else None
