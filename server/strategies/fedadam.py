"""``fedadam``: Flower's FedAdam (Reddi et al. 2021)."""

from __future__ import annotations

from flwr.serverapp.strategy import FedAdam

from server.weight_sharing import WeightSharing


class Contestant(WeightSharing):
    """FedAdam over all sites that share weights."""

    flower = FedAdam
    carried = ("m_t", "v_t")
