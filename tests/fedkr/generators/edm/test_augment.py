"""Non-leaky augmentation: what is told is what was done, and an image left alone is the same bit by bit."""

import pytest
import torch

from fedkr.generators.edm.augment import CONDITIONS, augment_with_parameters
from fedkr.seeds import torch_rng
from fedkr.stages import read_artifact, write_artifact

MIRROR_X, MIRROR_Y, SCALE, COS, SIN, SHIFT_X, SHIFT_Y, BRIGHTNESS = range(CONDITIONS)
SMALL = {"width": 8, "steps_sample": 2, "augment": 0.3}


@pytest.fixture(scope="module")
def shown():
    """Smooth pictures, what became of them, and what was told."""
    axis = torch.linspace(-1, 1, 16)
    picture = torch.exp(-4 * ((axis[None, :] - 0.3) ** 2 + (axis[:, None] + 0.2) ** 2)) - 0.5
    pictures = picture.expand(4000, 1, 16, 16).contiguous()
    return pictures, *augment_with_parameters(pictures, 0.15, torch_rng("a"))


def only(told, *done):
    """Return which images had these things done to them and nothing else."""
    return ((told != 0) == torch.isin(torch.arange(CONDITIONS), torch.tensor(done))).all(dim=1)


def centre(images):
    weights, axis = (images[:, 0] + 0.5).clamp(min=0), torch.linspace(-1, 1, 16)
    total = weights.sum(dim=(1, 2))
    return (
        torch.stack([(weights * axis).sum(dim=(1, 2)), (weights * axis[:, None]).sum(dim=(1, 2))], dim=1)
        / total[:, None]
    )


def test_an_image_of_which_nothing_is_told_is_unchanged(shown):
    before, after, told = shown
    untouched = only(told)
    assert untouched.sum() > 500
    assert torch.equal(before[untouched], after[untouched])


@pytest.mark.parametrize(("condition", "axis"), [(MIRROR_X, 3), (MIRROR_Y, 2)])
def test_a_told_mirror_is_a_mirror(shown, condition, axis):
    before, after, told = shown
    mirrored = only(told, condition)
    assert mirrored.any()
    assert torch.allclose(before[mirrored].flip(axis), after[mirrored], atol=1e-5)


def test_a_told_brightness_is_added_to_all_pixels(shown):
    before, after, told = shown
    bright = only(told, BRIGHTNESS)
    assert torch.allclose(after[bright], before[bright] + 2 * told[bright, BRIGHTNESS, None, None, None])


@pytest.mark.parametrize("condition", [SHIFT_X, SHIFT_Y])
def test_a_told_shift_moves_the_picture_against_it(shown, condition):
    before, after, told = shown
    moved = only(told, condition) & (told[:, condition].abs() < 0.1)
    axis = condition - SHIFT_X
    distance = (centre(after[moved]) - centre(before[moved]))[:, axis]
    assert torch.corrcoef(torch.stack([distance, told[moved, condition]]))[0, 1] < -0.9


def test_a_told_scale_above_zero_enlarges_the_picture(shown):
    _, after, told = shown
    scaled = only(told, SCALE)
    area = (after[scaled] > 0).float().mean(dim=(1, 2, 3))
    assert torch.corrcoef(torch.stack([area, told[scaled, SCALE]]))[0, 1] > 0.8


def test_a_told_rotation_is_an_angle(shown):
    _, _, told = shown
    assert torch.allclose((told[:, COS] + 1) ** 2 + told[:, SIN] ** 2, torch.ones(len(told)), atol=1e-5)
    assert 0.1 < (told[:, SIN] != 0).float().mean() < 0.2


def test_a_generator_with_augmentation_is_told_nothing_at_sampling_and_continues_bit_by_bit(
    build, fit, two_colours, draw, differing, tmp_path
):
    whole = fit(build("edm", SMALL), two_colours)
    write_artifact(tmp_path / "state", whole[2])
    resumed = fit(build("edm", SMALL), two_colours, state=read_artifact(tmp_path / "state"))
    assert differing(whole[4], resumed[4]) == []
    generator = build("edm", SMALL)
    generator.load(whole[4])
    told = []
    generator.net.class_embedding.register_forward_pre_hook(lambda module, given: told.append(given[0][1]))
    images = draw(generator, [0, 1])
    assert images.shape == (2, 8, 8, 1)
    assert len(told) == 2
    assert not any(conditions.any() for conditions in told)
