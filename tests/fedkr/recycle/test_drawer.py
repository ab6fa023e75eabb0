"""The Drawer: which classes a set holds, how its images are labelled, and which of them the filter keeps."""

import dataclasses

import numpy as np
import pytest

from fedkr.config import RecycleConfig
from fedkr.learning.job import Job
from fedkr.recycle.drawer import REDRAWS, Drawer, class_shares, own_knobs

ASKED = np.array([0, 1, 0, 1])
# Sure and right, sure and wrong, right but unsure, right and sure.
FIRST = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.05, 0.95]], np.float32)


class Counting:
    """A generator whose images count on from 0, two a batch; remembers what was asked of it."""

    def __init__(self):
        self.calls, self.drawn = [], 0

    def sample(self, labels, knobs, *seed):
        self.calls.append((labels.tolist(), dict(knobs), seed))
        for start in range(0, len(labels), 2):
            count = len(labels[start : start + 2])
            numbers = np.arange(self.drawn, self.drawn + count, dtype=np.uint8)
            self.drawn += count
            yield np.broadcast_to(numbers[:, None, None, None], (count, 2, 2, 1)).copy()


class Teacher:
    """Labels image n by row n of ``FIRST``, and every later one by ``later``."""

    def __init__(self, later):
        self.later, self.seeds = later, []

    def __call__(self, images, *seed):
        self.seeds.append(seed)
        return np.array([FIRST[n] if n < 4 else self.later for n in images[:, 0, 0, 0]], np.float32)


@pytest.fixture
def drawer(runtime):
    job = Job(runtime, seed=("study",))
    return Drawer(Counting(), {"steps": 8}, np.array([6, 6]), RecycleConfig(), Teacher([0.5, 0.5]), job)


def numbers(drawn):
    return drawn.images[:, 0, 0, 0].tolist()


def test_without_a_filter_everything_stays_and_nothing_is_drawn_again(drawer):
    drawn = drawer.draw(ASKED, "set", 1)
    assert numbers(drawn) == [0, 1, 2, 3] and np.array_equal(drawn.soft_labels, FIRST)
    assert drawer.generator.calls == [([0, 1, 0, 1], {"steps": 8}, ("study", "set", 1))]


def test_every_batch_is_labelled_by_a_seed_of_its_own(drawer):
    drawer.draw(ASKED, "set")
    assert drawer.labeller.seeds == [("study", "set", 0), ("study", "set", 2)]


def test_without_a_teacher_an_image_gets_the_class_that_it_was_drawn_for(drawer):
    drawn = dataclasses.replace(drawer, labeller=None).draw(ASKED)
    assert drawn.soft_labels.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_what_the_teacher_does_not_recognise_is_drawn_again_for_its_own_class(drawer):
    sure = np.array([0.1, 0.9])
    filtered = dataclasses.replace(drawer, labeller=Teacher(sure), knobs={"filter": 0.7})
    drawn = filtered.draw(ASKED, "set")
    calls = filtered.generator.calls
    assert calls[1] == ([1, 0], {}, ("study", "set", "again", 0))
    # Image 4 is taken for class 1; image 5, of class 0, is rejected again and again.
    assert numbers(drawn)[:2] == [0, 4] and numbers(drawn)[3] == 3
    assert calls[2][0] == [0]


def test_a_class_that_is_never_recognised_does_not_draw_for_ever(drawer):
    drawn = dataclasses.replace(drawer, recycle=RecycleConfig(filter=0.99)).draw(ASKED)
    assert len(drawer.generator.calls) == 1 + REDRAWS
    assert len(drawn.images) == 4


class Firmer(Counting):
    """Draws each image in its class's own grey, lighter by firmer knobs."""

    def sample(self, labels, knobs, *seed):
        self.calls.append((labels.tolist(), dict(knobs), seed))
        greys = labels + (100 if knobs["guidance"] > 1 else 0)
        yield np.broadcast_to(greys.astype(np.uint8)[:, None, None, None], (len(labels), 2, 2, 1)).copy()

    def firmer_knobs(self, knobs):
        return knobs | {"guidance": 2.0}


@pytest.fixture
def doubting(drawer):
    """Return a Drawer that draws class 1 by firmer knobs."""
    return dataclasses.replace(
        drawer, generator=Firmer(), knobs={"guidance": 1.0, "balance": 0.0}, labeller=None, doubted=frozenset({1})
    )


def test_a_doubted_class_is_drawn_by_firmer_knobs_and_every_image_stays_in_its_place(doubting):
    drawn = doubting.draw(np.array([1, 0, 0, 1, 0]), "set")
    assert doubting.generator.calls == [
        ([1, 1], {"guidance": 2.0}, ("study", "set", "firm")),
        ([0, 0, 0], {"guidance": 1.0}, ("study", "set")),
    ]
    assert numbers(drawn) == [101, 0, 0, 101, 0] and drawn.soft_labels.argmax(1).tolist() == [1, 0, 0, 1, 0]
    assert numbers(doubting.draw(np.array([1]), "next")) == [101]


def test_a_set_without_a_doubted_class_is_what_it_would_be_without_doubt(doubting):
    doubting.draw(np.array([0, 0]), "set")
    assert doubting.generator.calls == [([0, 0], {"guidance": 1.0}, ("study", "set"))]


def test_nothing_is_drawn_nearer_where_all_is_or_nothing_can_be(drawer, doubting):
    firm = dataclasses.replace(doubting, knobs={"guidance": 2.0})
    assert doubting.firm == {1} and not firm.firm and not dataclasses.replace(drawer, doubted=frozenset({1})).firm
    firm.draw(np.array([1, 0]), "set")
    assert firm.generator.calls == [([1, 0], {"guidance": 2.0}, ("study", "set"))]


def test_the_filter_draws_a_doubted_class_by_firmer_knobs_too(doubting):
    never = np.array([0.9, 0.1])
    filtered = dataclasses.replace(doubting, labeller=Teacher(never), knobs={"guidance": 1.0, "filter": 0.1})
    filtered.draw(np.array([1, 1, 0]), "set")
    assert ([1, 1], {"guidance": 2.0}, ("study", "set", "again", 0, "firm")) in filtered.generator.calls


@pytest.mark.parametrize(("name", "power"), [("histogram", 1.0), ("tempered", 0.5), ("balanced", 0.0)])
def test_class_shares_can_be_named_or_given_as_the_power_of_the_counts(name, power):
    data = np.array([64, 16, 4, 0])
    named, given = (class_shares(data, 70, b, 1, np.random.default_rng(0)) for b in (name, power))
    assert np.array_equal(named, given)


def test_a_sets_knob_overrides_the_studys_balance(drawer):
    data = np.array([64, 16])
    balanced = dataclasses.replace(drawer, counts=data, knobs={"balance": 0.0})
    assert np.bincount(balanced.classes(20, np.random.default_rng(0))).tolist() == [10, 10]
    assert np.bincount(dataclasses.replace(drawer, counts=data).classes(20, np.random.default_rng(0))).tolist() == [
        16,
        4,
    ]


def test_the_generator_never_sees_the_knobs_of_the_set():
    assert own_knobs({"steps": 8, "balance": 0.5, "filter": 0.3}) == {"steps": 8}
