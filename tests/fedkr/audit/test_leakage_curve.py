"""The sets that the leakage curve's students learn from."""

import numpy as np
import pytest

from fedkr.audit.leakage_curve import CurvePoint, SyntheticSlices, curve_points, training_sets
from fedkr.stages import read_artifact, write_artifact

SIZE, COUNT, CLASSES = 10, 4, 3


@pytest.fixture
def sites():
    """Two sites' slices; each image's brightness is its number, the second site's from 100."""

    def slices(first):
        numbers = np.arange(first, first + SIZE * COUNT, dtype=np.uint8)
        images = np.broadcast_to(numbers[:, None, None, None], (SIZE * COUNT, 2, 2, 1)).copy()
        soft = np.full((SIZE * COUNT, CLASSES), 1 / CLASSES, np.float16)
        return SyntheticSlices(images, soft, np.arange(SIZE * COUNT) % CLASSES, SIZE)

    return [slices(0), slices(100)]


def numbers(drawn):
    return drawn[0][:, 0, 0, 0].tolist()


def test_a_ratio_is_one_fixed_set_with_its_share_of_every_site(sites):
    draw = training_sets(CurvePoint("ratio", 0.3, "soft"), sites)
    assert numbers(draw(0)) == [0, 1, 2, 100, 101, 102]
    assert draw(5)[0] is draw(0)[0]


def test_a_large_ratio_goes_on_into_the_next_slices(sites):
    assert numbers(training_sets(CurvePoint("ratio", 2.5, "soft"), sites[:1])(0)) == list(range(25))


def test_rounds_take_a_fresh_slice_each_and_then_begin_again(sites):
    draw = training_sets(CurvePoint("rounds", 2, "soft"), sites[:1])
    assert numbers(draw(0)) == list(range(10))
    assert numbers(draw(1)) == list(range(10, 20))
    assert numbers(draw(2)) == numbers(draw(0))


def test_hard_labels_are_the_classes_that_were_asked_for_and_soft_ones_the_teachers(sites):
    hard = training_sets(CurvePoint("ratio", 1, "hard"), sites[:1])(0)[1]
    soft = training_sets(CurvePoint("ratio", 1, "soft"), sites[:1])(0)[1]
    assert hard.argmax(1).tolist() == [k % CLASSES for k in range(SIZE)]
    assert np.array_equal(hard.sum(1), np.ones(SIZE))
    assert np.allclose(soft, 1 / CLASSES, atol=1e-3)


def test_one_round_is_the_same_training_as_a_fixed_set_of_ratio_one():
    assert CurvePoint("rounds", 1.0, "hard").training == CurvePoint("ratio", 1.0, "hard")
    assert CurvePoint("rounds", 2.0, "hard").training == CurvePoint("rounds", 2.0, "hard")


def test_the_curve_has_both_sweeps_with_both_kinds_of_labels():
    points = curve_points()
    assert len(points) == len(set(points)) == 2 * (5 + 4)
    assert max(point.slices for point in points) == 10


def test_slices_are_kept_on_disk_as_they_are(sites, tmp_path):
    write_artifact(tmp_path / "slices", sites[0].as_artifact())
    again = SyntheticSlices.from_artifact(read_artifact(tmp_path / "slices"))
    for name in ("images", "soft", "asked"):
        assert np.array_equal(getattr(again, name), getattr(sites[0], name))
    assert again.size == SIZE
