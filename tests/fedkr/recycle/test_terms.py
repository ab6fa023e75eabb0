"""What a site's policy makes of a release: near-copies drawn again, labels of few digits and classes."""

import dataclasses

import numpy as np
import pytest

from fedkr.errors import UserError
from fedkr.recycle.terms import FEW_REDRAWS, MOST_REDRAWS, MOST_TIMES, NO_TERMS, Terms
from fedkr.release import SoftSet


class Drawing:
    """Draws one-pixel images: the numbers of ``rounds``, one list a call, the last again and again."""

    def __init__(self, *rounds):
        self.rounds, self.calls = rounds, []

    def draw(self, asked, *seed):
        pixels = self.rounds[min(len(self.calls), len(self.rounds) - 1)][: len(asked)]
        self.calls.append((asked.tolist(), seed))
        images = np.array(pixels, np.uint8).reshape(-1, 1, 1, 1)
        return SoftSet(images, np.eye(2, dtype=np.float32)[asked])


def is_private(images):
    return images.ravel() < 10


ASKED = np.array([0, 1, 0, 1])
TERMS = Terms(is_copy=is_private)


def numbers(drawn):
    return drawn.images.ravel().tolist()


def test_what_is_no_near_copy_stays_and_nothing_is_drawn_again():
    drawer = Drawing([11, 12, 13, 14])
    drawn, counted = TERMS.draw(drawer, ASKED, 1)
    assert numbers(drawn) == [11, 12, 13, 14] and len(drawer.calls) == 1
    assert (counted.redrawn, counted.redraws) == (0, 0)


def test_near_copies_are_drawn_again_for_the_same_classes_and_counted():
    drawer = Drawing([11, 2, 13, 4], [3, 15], [16])
    drawn, counted = TERMS.draw(drawer, ASKED, 1)
    assert numbers(drawn) == [11, 16, 13, 15]
    assert [call[0] for call in drawer.calls] == [[0, 1, 0, 1], [1, 1], [1]]
    assert drawn.soft_labels.argmax(1).tolist() == ASKED.tolist()
    assert (counted.redrawn, counted.redraws) == (3, 2)


@pytest.mark.parametrize("copies", range(1, 4))
def test_as_many_images_leave_as_were_asked_for_however_many_were_copies(copies):
    first = [1] * copies + [12] * (4 - copies)
    drawn, counted = TERMS.draw(Drawing(first, *[first[:copies]] * (FEW_REDRAWS + 1), [15] * copies), ASKED, 1)
    assert len(drawn.images) == len(drawn.soft_labels) == 4 and not is_private(drawn.images).any()
    assert counted.redraws == FEW_REDRAWS + 2


def test_copies_that_no_redraw_replaces_stop_the_release_within_a_bound():
    drawer = Drawing([1, 2, 13, 14], [3, 4])
    with pytest.raises(UserError, match="2 of 4 images are near-copies of real ones after 8 redraws: nothing is rel"):
        TERMS.draw(drawer, ASKED, 1)
    assert sum(len(call[0]) for call in drawer.calls[1:]) == MOST_TIMES * 4
    drawer, many = Drawing([1, *[99] * 99], [2]), np.zeros(100, int)
    with pytest.raises(UserError, match="1 of 100 images"):
        TERMS.draw(drawer, many, 1)
    assert len(drawer.calls) == 1 + MOST_REDRAWS


def test_a_policy_that_refuses_stops_a_release_with_one_near_copy_left():
    terms = dataclasses.replace(TERMS, refuse_copies=True)
    with pytest.raises(UserError, match=r"1 of 4 images .*near_copies: refuse"):
        terms.draw(Drawing([11, 2, 13, 14], [2]), ASKED, 1)
    assert numbers(terms.draw(Drawing([11, 2, 13, 14], [12]), ASKED, 1)[0]) == [11, 12, 13, 14]


def soft(rows=200, classes=7, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), rows).astype(np.float32)


@pytest.mark.parametrize("digits", [0, 1, 2, 3])
def test_labels_leave_in_so_many_decimals_and_sum_to_one(digits):
    rows = Terms(digits=digits).labels(soft()).astype(np.float64)
    whole = rows * 10**digits
    assert np.abs(whole - np.rint(whole)).max() < 0.3
    assert (np.rint(whole).sum(1) == 10**digits).all()
    assert np.abs(rows - soft()).max() <= 10.0**-digits + 1e-3


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_so_many_classes_keep_mass_and_the_first_stays_the_first(classes):
    rows = Terms(classes=classes).labels(soft())
    assert ((rows > 0).sum(1) <= classes).all()
    assert np.abs(rows.astype(np.float64).sum(1) - 1).max() < 2e-3
    assert (rows.argmax(1) == soft().argmax(1)).all()


def test_a_withheld_class_has_no_mass_even_where_the_teacher_knows_nothing_else():
    certain = np.array([[0, 1, 0]], np.float32)
    rows = Terms(withheld=(1,)).labels(np.concatenate([soft(classes=3), certain]))
    assert (rows[:, 1] == 0).all() and np.abs(rows.sum(1) - 1).max() < 2e-3
    assert rows[-1].tolist() == [0.5, 0, 0.5]


def test_without_terms_labels_are_as_exact_as_float16():
    assert np.array_equal(NO_TERMS.labels(soft()), (soft() / soft().sum(1, keepdims=True)).astype(np.float16))
