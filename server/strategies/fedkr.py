"""``fedkr``: a Flower strategy in which the sites send synthetic images with soft labels, never weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkr import wire
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress
from fedkr.release import ReleasedSets, check_release
from fedkr.stages import Artifact
from server.coordinator import Coordinator, Pending, card_shape
from server.failure import StudyFailedError
from server.student import train_student

logger = logging.getLogger("fedkr.server")


class FedKR(Strategy):
    """Collects the sites' releases, each written to disk as it lands, and trains the central student on their union.

    Flower's own loop holds all replies of a round in memory and cannot resume, so :meth:`start` drives the grid through
    the :class:`~server.coordinator.Coordinator`.

    Args:
        coordinator: the members and the exchanges with them.
        runtime: where the student is trained.
        progress: is told of the student's training.
        meanwhile: called when the last request is out: a chance to queue more work for sites that finish early.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        runtime: Runtime,
        progress: Progress,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.coordinator, self.runtime, self.progress, self.meanwhile = coordinator, runtime, progress, meanwhile
        self.files: list[dict[str, Path]] = []
        self._pending = Pending({}, {})

    def summary(self) -> None:
        """Log what is about to happen."""
        recycle = self.coordinator.study.recycle
        logger.info("├── fedkr: %d exchange(s), %d regeneration round(s)", self.exchanges, recycle.rounds)

    @property
    def exchanges(self) -> int:
        """How many times the sites are asked: once for all regeneration rounds, or once for each."""
        recycle = self.coordinator.study.recycle
        return 1 if recycle.exchange == "once" else recycle.rounds

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask each site whose policy allows it for its release of the round, unless it is on disk already."""
        sites, study = self.coordinator.allowing("release"), self.coordinator.study_json
        contents = {site: wire.request_content(study, round=server_round) for site in sites}
        self._pending = self.coordinator.compose(f"release-r{server_round}", wire.RELEASE, contents)
        return self._pending.messages.values()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check and store each release as it lands; nothing is averaged."""
        files = self.coordinator.keep(self._pending, replies, self._accept)
        self.files.append(files)
        return None, MetricRecord({"sites": len(files)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing to ask: the comparison evaluates the models of all strategies alike, at the end."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def _accept(self, site: str, content: RecordDict) -> Artifact:
        release, card = wire.read_release(content), self.coordinator.card
        check_release(
            release,
            card_shape(card),
            where=f"release of {site}",
        )
        artifact = release.as_artifact()
        artifact.info = {"left_out": []} | release.manifest | {"count": len(release)}
        artifact.info |= {"seconds": wire.read_metrics(content).get("seconds", 0.0)}
        return artifact

    def train(self) -> Artifact:
        """Train the student on everything stored, or read it where it was trained before."""
        if not any(self.files):
            raise StudyFailedError("no site released anything: 'release' is not in their policy.allow")
        pool = ReleasedSets.of_files([list(files.values()) for files in self.files])
        sites = [sorted(files) for files in self.files]
        return self.coordinator.stages.run(
            "student",
            {"study": self.coordinator.study.identity(), "sites": sites},
            lambda: train_student(self.coordinator.study, pool, self.runtime, self.progress),
        )

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 1,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run ``num_rounds`` exchanges, then train the student; its weights are the result.

        Deadlines and all other settings come from the study; Flower's remaining arguments are accepted and not needed.
        """
        self.summary()
        for server_round in range(1, num_rounds + 1):
            self.configure_train(server_round, initial_arrays, train_config or ConfigRecord(), grid)
            self.coordinator.send(self._pending)
            if server_round == num_rounds:
                self.meanwhile()
            self.aggregate_train(server_round, self.coordinator.arrivals(self._pending))
        return Result(arrays=wire.weights_record(self.train().tensors))
