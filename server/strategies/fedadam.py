"""``fedadam``: Flower's FedAdam (Reddi et al. 2021); options ``eta``, ``beta_1``, ``beta_2``, ``tau``."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import FedAdam, Strategy


def make(options: dict[str, Any], sites: int) -> Strategy:
    """Return FedAdam over all ``sites``."""
    return FedAdam(min_train_nodes=sites, min_available_nodes=sites, min_evaluate_nodes=sites, **options)
