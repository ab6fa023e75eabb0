"""Where a run keeps what: the names in a run folder, for all who write or read there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFiles:
    """The files of one run folder; each property is a path, whether or not something lies there."""

    folder: Path

    @property
    def study(self) -> Path:
        """The study's JSON. A simulation's driver writes it: without it the sites' images are not on this machine."""
        return self.folder / "study.json"

    @property
    def results(self) -> Path:
        """The finished run's document, which the report is drawn from."""
        return self.folder / "results.json"

    @property
    def server(self) -> Path:
        """The ServerApp's own folder, with its stages, its progress and the note of its failure."""
        return self.folder / "server"

    @property
    def server_results(self) -> Path:
        """What the ServerApp found; the driver adds what only a simulation knows."""
        return self.server / "results.json"

    @property
    def server_audit(self) -> Path:
        """What the ServerApp of a later audit found."""
        return self.server / "audit.json"

    @property
    def sites(self) -> Path:
        """The simulated sites' workspaces, a folder each."""
        return self.folder / "sites"

    def oracle(self, name: str) -> Path:
        """The folder of an oracle that sees private images of all sites."""
        return self.folder / "oracles" / name

    @property
    def models(self) -> Path:
        """The models that the run ended with."""
        return self.folder / "models"

    def model(self, name: str) -> Path:
        """One of the run's models, such as ``student``."""
        return self.models / f"{name}.safetensors"

    def earlier_results(self, identity: str) -> Path:
        """Results that a later audit replaced, by the identity of the study whose audit they hold."""
        return self.folder / "earlier-audits" / f"results-{identity}.json"
