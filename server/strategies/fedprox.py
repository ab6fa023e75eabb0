"""``fedprox``: Flower's FedProx (Li et al. 2020; the sites add its proximal term to their loss)."""

from __future__ import annotations

from flwr.serverapp.strategy import FedProx

from server.weight_sharing import WeightSharing


class Contestant(WeightSharing):
    """FedProx over all sites that share weights."""

    flower = FedProx
