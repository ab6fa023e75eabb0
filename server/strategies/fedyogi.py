"""``fedyogi``: Flower's FedYogi (Reddi et al. 2021)."""

from __future__ import annotations

from flwr.serverapp.strategy import FedYogi

from server.weight_sharing import WeightSharing


class Contestant(WeightSharing):
    """FedYogi over all sites that share weights."""

    flower = FedYogi
    carried = ("m_t", "v_t")
