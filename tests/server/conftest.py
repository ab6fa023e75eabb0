"""A grid whose sites answer as a test says, and the small study that they take part in."""

import itertools
import time
import weakref

import numpy as np
import pytest
import torch
from flwr.app import Error, Message, Metadata
from flwr.clientapp import ClientApp

import fedkr
from fedkr import wire
from fedkr.config import Study
from fedkr.release import Release
from fedkr.stages import StageStore
from server import coordinator as coordinator_module
from server.coordinator import Coordinator
from simulations.backends.inline import FIRST_NODE, InlineGrid

CLASSES = ["healthy", "ill", "rare"]
# Stands for an error that Flower itself sends.
UNDELIVERED = "the superlink lost it"


def card(site, **values):
    usual = {"site": site, "version": fedkr.__version__, "classes": CLASSES, "size": 8, "channels": 1, "counts": {}}
    return usual | {"allow": ["metrics", "release", "weights"]} | values


class FakeGrid(InlineGrid):
    """Sites that answer by ``answers[message type](site, request content)``, each made when it is pulled.

    An answer is a content, an ``Error``, None (silence), or ``UNDELIVERED`` (an error that names no site).
    """

    def __init__(self, sites, answers):
        super().__init__(ClientApp(), sites, {})
        self.answers = {wire.DESCRIBE: lambda site, content: describe(site)} | answers
        self.asked, self.gone, self._open, self._numbers = [], set(), {}, itertools.count()
        self._made, self.most_alive = [], 0

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node not in self.gone]

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        if message.metadata.dst_node_id in self.gone:
            return None
        name = f"m{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = name
        self._open[name] = message
        self.asked.append((message.metadata.message_type, site_of(message)))
        return name

    def pull_messages(self, message_ids):
        found = [self._reply(self._open[name]) for name in message_ids if name in self._open]
        replies = [reply for reply in found if reply is not None]
        for reply in replies:
            del self._open[reply.metadata.reply_to_message_id]
            self._made.append(weakref.ref(reply.content if reply.has_content() else reply.error))
        self.most_alive = max(self.most_alive, sum(made() is not None for made in self._made))
        return replies

    def _reply(self, message):
        answer = self.answers[message.metadata.message_type](site_of(message), message.content)
        if answer is None:
            return None
        return lost(message) if isinstance(answer, str) else Message(answer, reply_to=message)


def site_of(message):
    return f"site-{message.metadata.dst_node_id - FIRST_NODE}"


def describe(site, **values):
    content = wire.metrics_reply({})
    content[wire.CARD] = wire.document(card(site, **values))
    return content


def lost(message):
    """Return what Flower answers in a site's place: it comes from node 1 and names only what it replies to."""
    metadata = Metadata(
        run_id=1,
        message_id="lost",
        src_node_id=1,
        dst_node_id=1,
        reply_to_message_id=message.metadata.message_id,
        group_id="",
        created_at=time.time(),
        ttl=60.0,
        message_type=message.metadata.message_type,
    )
    return Message(Error(code=0, reason=UNDELIVERED), metadata=metadata)


def release_of(site, round_number=1, count=8, slices=2, **manifest):
    """Return a release whose every pixel says which site, round and slice it is of."""
    marks = 100 * int(site[-1]) + 10 * round_number + np.repeat(np.arange(slices), count // slices)
    images = np.broadcast_to(marks[:, None, None, None], (count, 8, 8, 1)).astype(np.uint8)
    values = {"site": site, "round": round_number, "slices": slices, "count": count, "left_out": []}
    return Release(images, np.full((count, 3), 1 / 3, np.float16), values | manifest)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Poll often: the fake sites answer at once."""
    monkeypatch.setattr(coordinator_module, "POLL_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine with other work, and the last digits depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def study():
    study = Study(device="cpu", precision="float32")
    study.student.arch, study.student.width, study.student.steps, study.student.batch = "resnet8", 4, 3, 4
    study.federation.deadline, study.federation.register_deadline = 30.0, 0.1
    study.recycle.rounds, study.audit.enabled, study.data.name = 2, False, "none"
    # The releases of these tests are marks, not images.
    study.strategy.options = {"fedkr": {"quarantine": False}}
    return study


@pytest.fixture
def federation(study, tmp_path):
    """Return a function that makes a grid with answers, and a coordinator that has gathered its sites."""

    def make(answers=None, sites=3, gather=True, restartable=False, registered=None, **settings):
        study.federation.sites = sites
        for name, value in settings.items():
            setattr(study.federation, name, value)
        grid = FakeGrid(sites, answers or {})
        coordinator = Coordinator(grid, study, StageStore(tmp_path / "server" / "stages"), restartable, registered)
        if gather:
            coordinator.gather_members()
            grid.asked.clear()
            grid.most_alive = 0
        return grid, coordinator

    return make


@pytest.fixture
def bad_reply(monkeypatch):
    """Have a function of grid and reply change how site-2's answer to ``train.local`` comes out of the grid."""
    original = FakeGrid._reply

    def install(change):
        def reply(grid, message):
            answer = original(grid, message)
            ours = message.metadata.message_type == wire.LOCAL and site_of(message) == "site-2"
            return change(grid, answer) if ours else answer

        monkeypatch.setattr(FakeGrid, "_reply", reply)

    return install


@pytest.fixture
def ask_all():
    """Return a function that sends every member the same request for metrics and waits for the answers."""

    def ask(coordinator, stage="local"):
        content = wire.request_content(coordinator.study_json)
        pending = coordinator.compose(stage, wire.LOCAL, dict.fromkeys(coordinator.members, content))
        return coordinator.collect_metrics(coordinator.send(pending), lambda site, metrics: None)

    return ask


@pytest.fixture(name="release_of")
def release_maker():
    """Return the function that makes a marked release."""
    return release_of
