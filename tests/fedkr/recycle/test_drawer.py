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
    """Has firmer knobs."""

    def firmer_knobs(self, knobs):
        return knobs | {"guidance": 2.0}


def doubting(drawer, asked, right, **recycle):
    """Return a set of ``asked``, and what was asked of the generator.

    ``right`` says of each image, by its number, whether the teacher takes it for its class; those drawn again are of
    class 1 but for the last.
    """
    classes = [*asked.tolist(), *[1] * 6, 0]

    def teacher(images, *seed):
        numbers = images[:, 0, 0, 0]
        told = [classes[n] if n >= len(right) or right[n] else 1 - classes[n] for n in numbers]
        return np.eye(2, dtype=np.float32)[told]

    generator = Firmer()
    asking = dataclasses.replace(
        drawer,
        generator=generator,
        labeller=teacher,
        recycle=RecycleConfig(**recycle),
        knobs={"steps": 8, "balance": 0.0},
    )
    return asking.draw(asked, "set"), generator.calls


def test_a_class_that_the_teacher_doubts_is_drawn_again_by_firmer_knobs(drawer):
    asked = np.array([1, 0] * 5)
    # Two of five images asked for class 1 are taken for it, all of class 0.
    drawn, calls = doubting(drawer, asked, [True] * 4 + [False, True] * 3, doubt=0.5)
    assert [call[:2] for call in calls] == [
        (asked.tolist(), {"steps": 8}),
        ([1] * 5, {"steps": 8, "guidance": 2.0}),
    ]
    assert numbers(drawn) == [10, 1, 11, 3, 12, 5, 13, 7, 14, 9]
    assert drawn.soft_labels.argmax(1).tolist() == asked.tolist()


@pytest.mark.parametrize(
    ("asked", "doubt"), [(np.array([1, 0] * 5), 0.4), (np.array([1, 0] * 5), 0.0), (np.array([1, 0] * 4), 0.5)]
)
def test_no_class_is_drawn_again_that_is_doubted_no_more_than_that_or_has_few_images(drawer, asked, doubt):
    drawn, calls = doubting(drawer, asked, [True] * 4 + [False, True] * 3, doubt=doubt)
    assert len(calls) == 1 and numbers(drawn) == list(range(len(asked)))


def test_the_filter_draws_a_doubted_class_by_firmer_knobs_too(drawer):
    # Image 9, of class 0, is not taken for it, nor is the first that is drawn again.
    asked, right = np.array([1, 0] * 5), [True] * 4 + [False, True] * 2 + [False, False] + [False]
    drawn, calls = doubting(drawer, asked, right, doubt=0.5, filter=0.1)
    assert [call[:2] for call in calls[1:]] == [
        ([1] * 5, {"steps": 8, "guidance": 2.0}),
        ([1], {"steps": 8, "guidance": 2.0}),
        ([0], {"steps": 8}),
    ]
    assert numbers(drawn) == [15, 1, 11, 3, 12, 5, 13, 7, 14, 16]
    assert drawn.soft_labels.argmax(1).tolist() == asked.tolist()


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
