"""The inline backend: both apps in this process, one site after the other, with real tracebacks."""

from __future__ import annotations

import copy
import importlib
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

# Flower's own error codes and replies to errors are compared by number; its constants have no public module.
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

# `Grid` is public and abstract, but the type of its `run` property is not exported.
from flwr.supercore.run import Run

# `Message` reads the sender from here; Flower sets it in the process of each app and offers no public way.
from flwr.supercore.task_identity import TaskIdentity

from fedkr.config import BackendConfig, Study
from fedkr.errors import StudyFailedError
from fedkr.failure import clear_note, read_note
from fedkr.run_files import RunFiles

logger = logging.getLogger(__name__)

RUN_ID = 1
SERVER_NODE = 1
FIRST_NODE = 1000


class InlineGrid(Grid):
    """A grid that answers a message when it is pushed, by calling the ClientApp.

    Sites are the nodes 1000, 1001, ... in the order of their partitions. As in Flower, an exception of the ClientApp
    becomes a reply with an error, a reply that comes after the message's time to live is an error too, a message to
    an unknown node gets no id, and either side owns the records it holds: containers are copied on the way, the bytes
    of the arrays, which are immutable, are not.
    """

    def __init__(self, client_app: ClientApp, num_sites: int, run_config: dict[str, str | int | float | bool]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER_NODE
        self._client_app = client_app
        self._run = Run.create_empty(RUN_ID)
        self._replies: dict[str, Message] = {}
        self._contexts = {
            FIRST_NODE + site: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE + site,
                node_config={"partition-id": site, "num-partitions": num_sites},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for site in range(num_sites)
        }

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message, as the deprecated call of Flower's interface does."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the sites' node ids, in the order of their partitions."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have each message answered, in this order; return the ids of those that reached a node."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._contexts:
                continue
            # The id is the SuperLink's to give, and `Metadata` has no setter for it.
            message.metadata.__dict__["_message_id"] = str(uuid4())
            ids.append(message.metadata.message_id)
            self._replies[ids[-1]] = self._answer(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that were not pulled before."""
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push and pull; every reply is there when the push returns, so ``timeout`` has nothing to limit."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        delivered = copy.copy(message)
        delivered.__dict__["_content"] = copy.deepcopy(message.content)
        try:
            reply = self._client_app(delivered, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            logger.exception("The ClientApp of node %d raised", message.metadata.dst_node_id)
            reason = f"{type(error)}:<'{error}'>"
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        if time.time() > message.metadata.created_at + message.metadata.ttl:
            reason = "The reply came after the message's time to live"
            reply = Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason), reply_to=message)
        if reply.has_content():
            reply.content = copy.deepcopy(reply.content)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return reply


class InlineBackend:
    """Calls the ServerApp in this process with an :class:`InlineGrid`."""

    def __init__(self, apps: tuple[ServerApp, ClientApp]) -> None:
        self._apps = apps

    def run(self, study: Study, run_dir: Path) -> None:
        """See :class:`simulations.backends.Backend`."""
        server_app, client_app = self._apps
        folder = RunFiles(run_dir).server
        clear_note(folder)
        config: dict[str, str | int | float | bool] = {"study": study.to_json(), "run-dir": str(run_dir.absolute())}
        context = Context(run_id=RUN_ID, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=config)
        try:
            server_app(InlineGrid(client_app, study.federation.sites, config), context)
        except Exception as error:
            raise StudyFailedError(str(read_note(folder) or error) or type(error).__name__) from error


def make(config: BackendConfig, shim: str) -> InlineBackend:
    """Return the backend, which has no options, with the apps of an installed module."""
    module = importlib.import_module(shim)
    return InlineBackend((module.server_app, module.client_app))
