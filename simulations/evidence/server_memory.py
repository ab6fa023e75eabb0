"""Peak memory of the server while it collects releases and trains its student, by the number of sites.

Each size runs in a process of its own, with a grid that makes up a site's release at the moment it is pulled, so that
only what the server itself holds is counted.

``python -m simulations.evidence.server_memory OUT.json [--sites 3 50] [--megabytes 20]``
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

import fedkr
from fedkr import wire
from fedkr.config import Study
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release
from fedkr.stages import StageStore
from server.contestant import Federation
from server.coordinator import Coordinator
from server.strategies.fedkr import Contestant as FedKR
from simulations.backends.inline import InlineGrid

SIZE, CLASSES = 28, 8


class GeneratedSites(InlineGrid):
    """Nodes whose releases come into being when they are pulled."""

    def __init__(self, sites: int, images: int) -> None:
        from flwr.clientapp import ClientApp

        super().__init__(ClientApp(), sites, {})
        self.images = images

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answer one message a call, as sites that finish one after the other do."""
        waiting = (name for name in list(message_ids) if name in self._replies)
        return [self._generated(self._replies.pop(name)) for name in islice(waiting, 1)]

    def _answer(self, message: Message) -> Message:
        # Kept as it is until it is pulled: a push computes nothing.
        return message

    def _generated(self, message: Message) -> Message:
        site = f"site-{message.metadata.dst_node_id}"
        if message.metadata.message_type == wire.DESCRIBE:
            card = {"site": site, "version": fedkr.__version__, "size": SIZE, "channels": 1, "allow": ["release"]}
            card["classes"] = [str(k) for k in range(CLASSES)]
            content = wire.metrics_reply({})
            content[wire.CARD] = wire.document(card)
            return Message(content, reply_to=message)
        rng = np.random.default_rng(message.metadata.dst_node_id)
        images = rng.integers(0, 256, (self.images, SIZE, SIZE, 1), np.uint8)
        soft = rng.dirichlet(np.ones(CLASSES), self.images).astype(np.float16)
        manifest = {"site": site, "round": 1, "slices": 4, "count": self.images, "left_out": []}
        return Message(wire.release_reply(Release(images, soft, manifest), 0.0), reply_to=message)


def peak_megabytes(sites: int, megabytes: float) -> float:
    """Return the peak resident memory in MB of a server that collects from ``sites`` and trains a short student."""
    study = Study()
    study.federation.sites, study.student.steps, study.student.width = sites, 40, 4
    images = int(megabytes * 1e6 / (SIZE * SIZE)) // 4 * 4
    with tempfile.TemporaryDirectory() as folder:
        grid: Grid = GeneratedSites(sites, images)
        coordinator = Coordinator(grid, study, StageStore(Path(folder)))
        coordinator.gather_members()
        federation = Federation(coordinator, Job(Runtime.choose("cpu", "float32", 1)))
        FedKR("fedkr", {}, federation).start()()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Measure each size in a fresh process and write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 50])
    parser.add_argument("--megabytes", type=float, default=20.0)
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {str(sites): pool.apply(peak_megabytes, (sites, options.megabytes)) for sites in options.sites}
    result = {
        "command": f"python -m simulations.evidence.server_memory OUT.json --megabytes {options.megabytes:g}",
        "megabytes_a_site": options.megabytes,
        "peak_rss_megabytes_by_sites": peaks,
        **provenance(),
    }
    write_json(options.out, result)
    print(peaks)


if __name__ == "__main__":
    main()
