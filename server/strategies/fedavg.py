"""``fedavg``: Flower's FedAvg (McMahan et al. 2017)."""

from __future__ import annotations

from flwr.serverapp.strategy import FedAvg

from server.weight_sharing import WeightSharing


class Contestant(WeightSharing):
    """FedAvg over all sites that share weights."""

    flower = FedAvg
