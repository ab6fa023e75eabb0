import numpy as np
import pytest

from fedkr.audit.attacks.queries import Queries
from fedkr.errors import UserError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)


def query_images(images, queries, flip):
    """Return all views at once, [A, N, H, W, C]."""
    return np.stack(list(Queries(queries, flip).views(images)))


def test_the_first_view_is_the_image_and_mirror_images_come_before_shifts():
    views = query_images(IMAGES, 5, "both")
    assert views.shape == (5, 2, 3, 4, 1)
    np.testing.assert_array_equal(views[0], IMAGES)
    np.testing.assert_array_equal(views[1], IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(views[2], IMAGES[:, ::-1])
    np.testing.assert_array_equal(views[3], IMAGES[:, ::-1, ::-1])


def test_a_shift_moves_by_one_pixel_and_repeats_the_edge():
    right, left, down = query_images(IMAGES, 4, "none")[1:, 0, :, :, 0]
    assert right[0].tolist() == [0, 0, 1, 2]
    assert left[0].tolist() == [1, 2, 3, 3]
    assert down[:, 0].tolist() == [0, 0, 4]


@pytest.mark.parametrize(("flip", "most"), [("none", 9), ("horizontal", 18), ("both", 36)])
def test_all_views_of_a_picture_without_symmetry_differ(flip, most):
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 1), dtype=np.uint8)
    views = query_images(image, most, flip)
    assert len({view.tobytes() for view in views}) == most
    with pytest.raises(UserError, match=f"between 1 and {most}"):
        Queries(most + 1, flip)


def test_a_view_of_an_image_does_not_depend_on_the_images_beside_it():
    alone = query_images(IMAGES[1:], 18, "horizontal")
    np.testing.assert_array_equal(query_images(IMAGES, 18, "horizontal")[:, 1:], alone)


def test_an_unknown_flip_is_named():
    with pytest.raises(UserError, match="flip='vertical'"):
        Queries(1, "vertical")
