"""Augmentation: other views of the same images, in the same shape and range."""

import pytest
import torch

from fedkr.learning.augment import STRENGTHS, augment
from fedkr.seeds import torch_rng

SHAPES = [(5, 1, 8, 8), (4, 3, 9, 9), (1, 3, 28, 28), (3, 1, 2, 2)]


def images(shape, seed=0):
    return torch.rand(shape, generator=torch_rng(seed, "images")) * 2 - 1


@pytest.mark.parametrize("policy", sorted(STRENGTHS))
@pytest.mark.parametrize("flip", ["none", "horizontal", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_views_keep_shape_type_and_range(policy, flip, shape):
    views = augment(images(shape), policy, flip, torch_rng("views"))
    assert views.shape == shape
    assert views.dtype == torch.float32
    assert views.min() >= -1
    assert views.max() <= 1


@pytest.mark.parametrize("flip", ["none", "horizontal", "both"])
def test_none_is_the_identity(flip):
    original = images((4, 1, 8, 8))
    assert torch.equal(augment(original, "none", flip, torch_rng("views")), original)


@pytest.mark.parametrize("policy", sorted(STRENGTHS))
def test_the_original_images_are_left_as_they_are(policy):
    original = images((8, 1, 8, 8))
    kept = original.clone()
    augment(original, policy, "both", torch_rng("views"))
    assert torch.equal(original, kept)


def test_the_same_generator_gives_the_same_views_and_another_gives_others():
    original = images((8, 1, 8, 8))
    first, second, other = (augment(original, "strong", "both", torch_rng(s)) for s in ("a", "a", "b"))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_each_image_of_a_batch_gets_a_view_of_its_own():
    original = images((1, 1, 16, 16)).expand(12, -1, -1, -1).contiguous()
    views = augment(original, "standard", "none", torch_rng("views"))
    assert len({view.numpy().tobytes() for view in views}) == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_makes_the_same_views_in_autocast_too():
    original = images((6, 1, 224, 224))
    expected = augment(original, "strong", "both", torch_rng("views"))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        views = augment(original.cuda(), "strong", "both", torch_rng("views"))
    assert torch.allclose(views.cpu(), expected, atol=1e-3)


def mirrors(flip):
    """Which mirror images of a constant gradient, shifted by at most an eighth, are seen among many views."""
    ramp = torch.linspace(-1, 1, 16)
    picture = (ramp[None, :] + 2 * ramp[:, None])[None, None] / 3
    views = augment(picture.expand(64, -1, -1, -1).contiguous(), "standard", flip, torch_rng("views"))
    right = (views[:, 0, :, -1] - views[:, 0, :, 0]).mean(dim=1) > 0
    down = (views[:, 0, -1] - views[:, 0, 0]).mean(dim=1) > 0
    return {(bool(r), bool(d)) for r, d in zip(right, down, strict=True)}


def test_only_the_mirror_images_that_are_allowed_are_made():
    assert mirrors("none") == {(True, True)}
    assert mirrors("horizontal") == {(True, True), (False, True)}
    assert mirrors("both") == {(r, d) for r in (True, False) for d in (True, False)}


def test_a_shift_moves_the_picture_by_at_most_an_eighth():
    spot = torch.full((64, 1, 16, 16), -1.0)
    spot[:, :, 8, 8] = 1.0
    views = augment(spot, "standard", "none", torch_rng("views"))
    rows, columns = torch.nonzero(views[:, 0] > -0.9, as_tuple=True)[1:]
    assert int(rows.min()) >= 5
    assert int(rows.max()) <= 11
    assert int(columns.min()) >= 5
    assert int(columns.max()) <= 11


def test_erasing_touches_about_its_share_of_the_images_in_one_square():
    white = torch.ones(400, 1, 16, 16)
    strength = STRENGTHS["strong"]
    views = augment(white, "strong", "none", torch_rng("views"))
    erased = (views == 0).flatten(1).sum(dim=1)
    assert set(erased.tolist()) == {0, 16}
    assert abs(float((erased > 0).float().mean()) - strength.erase) < 0.08
