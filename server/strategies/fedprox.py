"""``fedprox``: Flower's FedProx (Li et al. 2020); option ``proximal_mu``."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import FedProx, Strategy


def make(options: dict[str, Any], sites: int) -> Strategy:
    """Return FedProx over all ``sites``; the sites add the proximal term to their loss."""
    return FedProx(min_train_nodes=sites, min_available_nodes=sites, min_evaluate_nodes=sites, **options)
