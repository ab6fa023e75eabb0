"""A study on the inline backend with a process for each site: for a GPU machine that has no Ray.

Run as ``python -m simulations.evidence.side_by_side backend=inline ...``, with the words of ``fedkr simulate``.
Backends never change a result (tests/simulations/test_backends_agree.py), and neither does this.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from uuid import uuid4

from flwr.app import Message
from flwr.clientapp import ClientApp

import fedkr_app
from simulations.backends import inline
from simulations.backends.inline import InlineGrid
from simulations.study.application import main

RunConfig = dict[str, str | int | float | bool]

_site_grid: InlineGrid | None = None


def _begin(num_sites: int, run_config: RunConfig) -> None:
    """Set this process up as that of one site."""
    global _site_grid
    _site_grid = InlineGrid(fedkr_app.client_app, num_sites, run_config)


def _reply_to(message: Message) -> Message:
    assert _site_grid is not None
    (name,) = _site_grid.push_messages([message])
    return _site_grid.pull_messages([name])[0]


class SideBySideGrid(InlineGrid):
    """Has each site's messages answered in a process of its own."""

    def __init__(self, client_app: ClientApp, num_sites: int, run_config: RunConfig) -> None:
        super().__init__(client_app, num_sites, run_config)
        spawn = multiprocessing.get_context("spawn")
        self._sites = {
            node: ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(num_sites, run_config))
            for node in self.get_node_ids()
        }
        self._pending: dict[str, Future[Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand each message to its site's process; return the ids of those that have one."""
        names = []
        for message in messages:
            if message.metadata.dst_node_id in self._sites:
                names.append(str(uuid4()))
                self._pending[names[-1]] = self._sites[message.metadata.dst_node_id].submit(_reply_to, message)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to those of these messages that are answered, and were not pulled before."""
        done = [name for name in message_ids if name in self._pending and self._pending[name].done()]
        return [self._pending.pop(name).result() for name in done]


if __name__ == "__main__":
    inline.InlineGrid = SideBySideGrid  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
