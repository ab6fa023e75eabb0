"""Differentiable augmentation: changes images, each in its own way, and lets gradients through."""

import pytest
import torch

from fedkr.generators.biggan_deep.differentiable_augment import AUGMENTATIONS, differentiable_augment


def augmented(images, *names):
    return differentiable_augment(images, names, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_augmentation_changes_images_and_lets_gradients_through(name):
    images = torch.linspace(-1, 1, 32 * 3 * 64).view(32, 3, 8, 8).requires_grad_()
    views = augmented(images, name)
    assert views.shape == images.shape
    assert not torch.equal(views, images)
    views.square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad != 0).any(dim=3).any(dim=2).any(dim=1).sum() > 24


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_equal_images_get_views_of_their_own(name):
    views = augmented(torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(16, 1, 1, 1), name)
    assert len({view.numpy().tobytes() for view in views}) > 4


def test_a_translation_moves_what_it_keeps():
    images = torch.arange(1.0, 65.0).view(1, 1, 8, 8).repeat(16, 1, 1, 1)
    for view in augmented(images, "translation")[:, 0]:
        row, column = divmod(int(view[4, 4]) - 1, 8)
        assert abs(row - 4) <= 1
        assert abs(column - 4) <= 1
        assert view[3, 3] == view[4, 4] - 9


def test_no_names_leave_images_alone():
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(augmented(images), images)
