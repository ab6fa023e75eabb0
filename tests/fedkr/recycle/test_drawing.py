"""What a synthetic set holds of each class, and which drawn images the filter keeps."""

import numpy as np
import pytest

from fedkr.recycle.drawing import REDRAWS, confident, release_labels, sampling_knobs
from tests.fedkr.recycle.test_search import a_set

LABELS = np.array([0, 1, 0, 1])


def soft_rows(*rows):
    return np.array(rows, np.float32)


def drawn_set():
    """Return four images: sure and right, sure and wrong, right but unsure, right and sure."""
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return images, soft_rows([0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.05, 0.95])


def refuse(*_):
    raise AssertionError("nothing should be drawn again")


def test_without_a_threshold_everything_stays_and_nothing_is_drawn_again():
    images, soft = drawn_set()
    kept, labels = confident(images, soft, LABELS, 0.0, refuse)
    assert kept is images
    assert labels is soft


def test_what_the_teacher_does_not_recognise_is_drawn_again_for_its_own_class():
    asked = []

    def draw(wanted, *seed):
        asked.append((wanted.tolist(), seed))
        return np.full((len(wanted), 2, 2, 1), 9, np.uint8), np.eye(2, dtype=np.float32)[wanted]

    images, soft = drawn_set()
    kept, labels = confident(images, soft, LABELS, 0.7, draw)
    assert asked == [([1, 0], ("again", 0))]
    assert kept[:, 0, 0, 0].tolist() == [0, 9, 9, 3]
    assert labels[[1, 2]].tolist() == [[0, 1], [1, 0]]
    assert images[1, 0, 0, 0] == 1, "the set that was given is left alone"


def test_a_class_that_is_never_recognised_does_not_draw_for_ever():
    calls = []

    def draw(wanted, *seed):
        calls.append(seed)
        return np.zeros((len(wanted), 2, 2, 1), np.uint8), np.full((len(wanted), 2), 0.5, np.float32)

    kept, _ = confident(*drawn_set(), LABELS, 0.99, draw)
    assert len(calls) == REDRAWS
    assert len(kept) == 4


@pytest.mark.parametrize(("name", "power"), [("histogram", 1.0), ("tempered", 0.5), ("balanced", 0.0)])
def test_class_shares_can_be_named_or_given_as_the_power_of_the_counts(name, power):
    data = a_set(64, 16, 4, 0)
    named, given = (release_labels(data, 70, b, 1, np.random.default_rng(0)) for b in (name, power))
    assert np.array_equal(named, given)


def test_the_generator_never_sees_the_knobs_of_the_set():
    assert sampling_knobs({"steps": 8, "balance": 0.5, "filter": 0.3}) == {"steps": 8}
