import numpy as np

from fedkr.audit.attacks.label_only import DRAWS, NOISE, label_only_score

IMAGES = np.full((40, 8, 8, 1), 120, np.uint8)
LABELS = np.zeros(40, np.int64)
VIEWS = 9 + DRAWS * len(NOISE)


def nearby(margins):
    """A model that says class 0 as long as an image is within ``margins`` grey levels (root mean square) of its own."""

    def predict(images):
        distance = np.sqrt(((images.astype(float) - 120) ** 2).mean((1, 2, 3)))
        right = distance <= margins[: len(images)]
        return np.stack([right, ~right], axis=1).astype(np.float32) * 1e9

    return predict


def score(predict, parts=((IMAGES, LABELS),), seed=0):
    return label_only_score(predict, parts, "none", np.random.default_rng(seed))


def test_images_further_from_the_boundary_score_higher():
    margins = np.linspace(0, 130, 40)
    found = score(nearby(margins))
    assert (np.diff(found) >= 0).all() and found[0] < 0.4 and found[-1] == 1.0
    assert len(np.unique(found)) >= len(NOISE)


def test_only_the_largest_output_counts():
    blunt = lambda images: np.tile([1e-9, 0.0], (len(images), 1)).astype(np.float32)  # noqa: E731
    assert (score(blunt) == 1.0).all()
    assert (score(blunt, [(IMAGES, LABELS + 1)]) == 0.0).all()


def test_large_sets_are_asked_in_blocks_with_the_same_result(monkeypatch):
    whole = score(nearby(np.full(40, 40.0)))
    monkeypatch.setattr("fedkr.audit.attacks.label_only.IMAGES_AT_ONCE", 7)
    np.testing.assert_array_equal(score(nearby(np.full(40, 40.0))), whole)


def test_every_view_counts_alike_and_sets_are_asked_one_after_the_other():
    asked = []

    def predict(images):
        asked.append(len(images))
        return np.tile([1.0, 0.0], (len(images), 1))

    found = score(predict, [(IMAGES[:30], LABELS[:30]), (IMAGES[:10], LABELS[:10] + 1)])
    assert sorted(asked) == [10] * VIEWS + [30] * VIEWS
    np.testing.assert_array_equal(found, [1.0] * 30 + [0.0] * 10)
