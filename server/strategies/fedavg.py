"""``fedavg``: Flower's FedAvg (McMahan et al. 2017)."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import FedAvg, Strategy


def make(options: dict[str, Any], sites: int) -> Strategy:
    """Return FedAvg over all ``sites``."""
    return FedAvg(min_train_nodes=sites, min_available_nodes=sites, min_evaluate_nodes=sites, **options)
