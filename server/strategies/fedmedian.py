"""``fedmedian``: Flower's FedMedian (Yin et al. 2018)."""

from __future__ import annotations

from flwr.serverapp.strategy import FedMedian

from server.weight_sharing import WeightSharing


class Contestant(WeightSharing):
    """FedMedian over all sites that share weights."""

    flower = FedMedian
