"""Classes that a site's teacher doubts, and which of them firmer knobs draw no worse."""

import numpy as np
import pytest

from fedkr.config import RecycleConfig
from fedkr.learning.job import Job
from fedkr.recycle.doubt import PILOT, doubted_classes

COUNTS = np.array([6, 6, 1])


class Grey:
    """Draws each image in its class's own grey, 100 lighter by firmer knobs."""

    def __init__(self):
        self.calls = []

    def default_knobs(self):
        return {"guidance": 1.0}

    def sample(self, labels, knobs, *seed):
        self.calls.append((labels.tolist(), dict(knobs), seed))
        greys = labels + (100 if knobs["guidance"] > 1 else 0)
        yield np.broadcast_to(greys.astype(np.uint8)[:, None, None, None], (len(labels), 2, 2, 1)).copy()


class Firmer(Grey):
    def firmer_knobs(self, knobs):
        return knobs | {"guidance": 2.0}


def taking(shares):
    """Return a teacher that takes so much of the images of a grey for their class, the first ones of a batch."""

    def teacher(images, *seed):
        greys = images[:, 0, 0, 0].astype(int)
        soft = np.zeros((len(greys), len(COUNTS)), np.float32)
        for grey in np.unique(greys):
            rows = np.flatnonzero(greys == grey)
            taken = np.arange(len(rows)) < shares.get(grey, 1.0) * len(rows)
            soft[rows, np.where(taken, grey % 100, (grey + 1) % 100 % len(COUNTS))] = 1
        return soft

    return teacher


@pytest.fixture
def doubted(runtime):
    """Return a function that asks a teacher who takes shares of greys."""

    def ask(generator, shares, **recycle):
        options = RecycleConfig(**{"doubt": 0.5} | recycle)
        return doubted_classes(generator, COUNTS, options, taking(shares), Job(runtime, seed=("study", "site")))

    return ask


def test_a_class_is_doubted_by_its_own_images_and_then_asked_about_firmer_ones(doubted):
    generator = Firmer()
    assert doubted(generator, {0: 0.6, 1: 0.4, 2: 0.0}) == {1}
    # Class 2 has fewer images than are released.
    assert generator.calls == [
        ([0] * PILOT + [1] * PILOT, {"guidance": 1.0}, ("study", "site", "doubt")),
        ([1] * PILOT, {"guidance": 2.0}, ("study", "site", "doubt")),
    ]


@pytest.mark.parametrize(
    ("shares", "found"), [({1: 0.5}, set()), ({1: 0.4, 101: 0.3}, set()), ({0: 0.1, 1: 0.4, 101: 0.4}, {0, 1})]
)
def test_half_of_the_images_is_enough_and_firmer_knobs_must_be_no_worse(doubted, shares, found):
    assert doubted(Firmer(), shares) == found


def test_no_filter_draws_again_what_the_teacher_is_asked_about(doubted):
    generator = Firmer()
    assert doubted(generator, {1: 0.0}, filter=0.5) == {1} and len(generator.calls) == 2


@pytest.mark.parametrize(("generator", "doubt"), [(Grey(), 0.5), (Firmer(), 0.0)])
def test_nothing_is_drawn_where_nothing_would_follow(doubted, generator, doubt):
    assert not doubted(generator, {1: 0.0}, doubt=doubt) and not generator.calls
