"""What the sites released: asked for once, each release checked and written to disk as it lands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from fedkr import wire
from fedkr.config.reading import brief
from fedkr.documents import check_document
from fedkr.errors import StudyFailedError, UserError
from fedkr.release import Release, check_release
from fedkr.stages import Artifact
from server.coordinator import Coordinator, Pending, card_shape


class Releases:
    """The releases of a study, for all contestants that learn from them.

    Flower's own loop holds all replies of a round in memory and cannot resume; here each release is a file before the
    next is taken, and only sites whose file is missing are asked.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator, self.exchanges = coordinator, coordinator.study.recycle.exchanges
        self._asked: Pending | None = None
        self._files: list[dict[str, Path]] = []

    def ask(self) -> None:
        """Ask the sites for their first release, unless that was done."""
        if self._asked is None:
            self._asked = self._send(1)

    def collect(self) -> list[dict[str, Path]]:
        """Return each exchange's files by site, once all came; raise :class:`StudyFailedError` where there is none."""
        for number in range(len(self._files) + 1, self.exchanges + 1):
            asked = self._asked if number == 1 and self._asked is not None else self._send(number)
            self._files.append(self.coordinator.keep(asked, self._accept))
        if not any(self._files):
            raise StudyFailedError("no site released anything: 'release' is not in their policy.allow")
        return self._files

    def _send(self, number: int) -> Pending:
        """Ask each site whose policy allows it for its release of an exchange, unless it is on disk already."""
        study = self.coordinator.study_json
        contents = {site: wire.request_content(study, round=number) for site in self.coordinator.allowing("release")}
        return self.coordinator.send(self.coordinator.compose(f"release-r{number}", wire.RELEASE, contents))

    def _accept(self, site: str, content: RecordDict) -> Artifact:
        release = wire.read_release(content)
        check_document(wire.MANIFEST, release.manifest)
        self._check_classes(release.manifest)
        self._check_slices(release)
        check_release(release, card_shape(self.coordinator.card), where=f"release of {site}")
        artifact = release.as_artifact()
        artifact.info = {"left_out": []} | release.manifest | {"count": len(release)}
        artifact.info |= {"seconds": wire.read_seconds(wire.read_metrics(content))}
        return artifact

    def _check_slices(self, release: Release) -> None:
        """Raise :class:`UserError` for other slices than the study asks for: as many as the student has rounds."""
        wanted = self.coordinator.study.recycle.rounds // self.exchanges
        if (slices := release.manifest.get("slices", 1)) != wanted:
            raise UserError(f"manifest: {brief(slices)} slices, the study asks for {wanted}")

    def _check_classes(self, manifest: Mapping[str, Any]) -> None:
        """Raise :class:`UserError` for a manifest that speaks of other classes than the study has."""
        classes = self.coordinator.card["classes"]
        for name in manifest.get("left_out", []):
            if name not in classes:
                raise UserError(f"manifest: left_out names {brief(name)}, which is no class of the study")
        if len(manifest.get("recalls", classes)) != len(classes):
            raise UserError(f"manifest: {len(manifest['recalls'])} recalls for {len(classes)} classes; one a class")
        shares = manifest.get("quality", {}).get("recognised", classes)
        if len(shares) != len(classes):
            raise UserError(f"manifest: {len(shares)} shares recognised for {len(classes)} classes; one a class")
