"""Where a run keeps what: the names in a run folder, for all who write or read there."""

from __future__ import annotations

from pathlib import Path


class RunFiles:
    """The paths of one run folder, whether or not something lies there.

    Attributes:
        study: the study's JSON. A simulation's driver writes it: without it the sites' images are not on this machine.
        results: the finished run's document, which the report is drawn from.
        server: the ServerApp's own folder, with its stages, its progress and the note of its failure.
        server_results: what the ServerApp found; the driver adds what only a simulation knows.
        server_audit: what the ServerApp of a later audit found.
        sites: the simulated sites' workspaces, a folder each.
        models: the models that the run ended with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study, self.results = folder / "study.json", folder / "results.json"
        self.server, self.sites, self.models = folder / "server", folder / "sites", folder / "models"
        self.server_results, self.server_audit = self.server / "results.json", self.server / "audit.json"

    def oracle(self, name: str) -> Path:
        """The folder of an oracle that sees private images of all sites."""
        return self.folder / "oracles" / name

    def model(self, name: str) -> Path:
        """One of the run's models, such as ``student``."""
        return self.models / f"{name}.safetensors"

    def predictions(self, name: str) -> Path:
        """What one of the compared models answered on the global test images."""
        return self.folder / "predictions" / f"{name}.npz"

    def earlier_results(self, identity: str) -> Path:
        """Results that a later audit replaced, by the identity of the study whose audit they hold."""
        return self.folder / "earlier-audits" / f"results-{identity}.json"
