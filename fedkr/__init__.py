"""fedkr, the method: Federated Knowledge Recycling without any federation library."""

__version__ = "0.1.0"
