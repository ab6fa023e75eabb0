"""Mirrored copies and the way back to pixels."""

import torch

from fedkr.generators.pixels import mirror, to_uint8
from fedkr.seeds import torch_rng


def test_only_the_mirror_images_that_are_allowed_are_shown():
    picture = torch.arange(16.0).reshape(1, 1, 4, 4).expand(64, -1, -1, -1)
    seen = {
        flip: {i.numpy().tobytes() for i in mirror(picture, flip, torch_rng("r"))}
        for flip in ("none", "horizontal", "both")
    }
    assert [len(seen[flip]) for flip in ("none", "horizontal", "both")] == [1, 2, 4]


def test_numbers_outside_the_range_are_clipped_to_pixels():
    pixels = to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).reshape(1, 1, 1, 5))
    assert pixels.flatten().tolist() == [0, 0, 128, 255, 255]
