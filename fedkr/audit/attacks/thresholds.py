"""Attacks that need no reference model: one membership signal an example, from the audited model's logits.

Every signal maps logits float ``[N, K]`` (K at least 2) and labels int64 ``[N]`` to float64 ``[N]``, higher meaning
"more like a member". An attack of one's own is a module with a function ``score`` of that shape, named by its dotted
name. All are computed from the log-odds of each class, so they neither saturate at confidence 1 nor
lose digits to ``1 - p``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedkr.config import nearest
from fedkr.errors import UserError

Floats = NDArray[np.float64]
Signal = Callable[[NDArray[np.floating], NDArray[np.int64]], Floats]


def log_odds(logits: NDArray[np.floating]) -> Floats:
    """Return float64 ``[N, K]``: ``log(p_k / (1 - p_k)) = z_k - logsumexp_{j != k} z_j`` for every class."""
    z = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(z))
    top = z.argmax(1)
    shifted = np.exp(z - z[rows, top, None])
    # For any class but the top one the remaining sum holds the top's 1, so the subtraction loses nothing ...
    rest = shifted.sum(1, keepdims=True) - shifted
    rest[rows, top] = 1.0
    others = z[rows, top, None] + np.log(rest)
    # ... and the top class's rest is summed afresh, relative to the runner-up.
    runners = z.copy()
    runners[rows, top] = -np.inf
    second = runners.max(1)
    others[rows, top] = second + np.log(np.exp(runners - second[:, None]).sum(1))
    return z - others


def loss_score(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return ``log p_y``, the negative cross-entropy (Yeom et al. 2018, threshold on the loss)."""
    return -np.logaddexp(0, -true_class(log_odds(logits), labels))


def modified_entropy_score(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return minus the modified entropy of Song & Mittal 2021, one threshold for all classes.

    ``Mentr = -(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k)``
    """
    odds = log_odds(logits)
    log_p, log_not_p = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    terms = np.exp(log_p) * log_not_p
    rows = np.arange(len(labels))
    terms[rows, labels] = np.exp(log_not_p[rows, labels]) * log_p[rows, labels]
    return terms.sum(1)


def confidence_score(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return the log-odds of the most probable class, whatever the label (Salem et al. 2019, top posterior)."""
    return log_odds(logits).max(1)


def logit_margin_score(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return ``z_y - max_{k != y} z_k``: how far the label's logit leads the best other one."""
    others = np.array(logits, dtype=np.float64)
    own = true_class(others, labels)
    others[np.arange(len(labels)), labels] = -np.inf
    return own - others.max(1)


SIGNALS: dict[str, Signal] = {
    "loss": loss_score,
    "modified-entropy": modified_entropy_score,
    "confidence": confidence_score,
    "logit-margin": logit_margin_score,
}


def attack_score(name: str, logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return the named signal, float64 ``[N]``.

    Raises:
        UserError: an unknown attack, logits that are not ``[N, K >= 2]`` and finite, or labels that do not fit them.
    """
    signal = _signal(name)
    check_answers(logits, labels)
    return signal(logits, labels)


def check_answers(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
    """Raise :class:`UserError` unless logits are ``[N, K >= 2]``, finite, and of the images with ``labels``."""
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise UserError(f"logits: expected [{len(labels)}, 2 or more classes], got shape {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise UserError("logits: not all finite, so the model diverged and cannot be audited; lower its learning rate")


def _signal(name: str) -> Signal:
    if "." in name:
        try:
            own: Signal = importlib.import_module(name).score
            return own
        except (ImportError, AttributeError) as error:
            raise UserError(f"audit.attacks={name!r}: {error}; install a module with a function score here") from None
    if name not in SIGNALS:
        raise UserError(f"audit.attacks={name!r}: no such attack{nearest(name, SIGNALS)}")
    return SIGNALS[name]


def true_class(values: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return ``[N]``: each row's entry at its label."""
    return values[np.arange(len(labels)), labels]
