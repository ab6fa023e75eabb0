"""Classifiers by name: shapes, and weights that are a function of the seed alone."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fedkr.config import ClassifierConfig
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier


def build(arch="resnet8", norm="batch", channels=1, size=8, classes=3, seed="seed", width=4):
    return build_classifier(ClassifierConfig(arch=arch, norm=norm, width=width), Shape(channels, size, classes), seed)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("arch", "channels", "size"), [("resnet8", 1, 8), ("resnet14", 3, 28), ("resnet18", 3, 8)])
def test_every_classifier_gives_a_logit_for_each_class(arch, norm, channels, size):
    model = build(arch, norm, channels, size).eval()
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 3)


def test_large_images_get_the_wide_stem_of_resnet18():
    small, large = build("resnet18", size=63), build("resnet18", size=64)
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(small.maxpool, nn.Identity)


@pytest.mark.parametrize(("arch", "layers"), [("resnet8", 8), ("resnet14", 14), ("resnet20", 20), ("resnet32", 32)])
def test_the_number_in_a_name_counts_the_layers_with_weights(arch, layers):
    weighted = [m for m in build(arch).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    counted = [m for m in weighted if getattr(m, "kernel_size", None) != (1, 1)]
    assert len(counted) == layers


def test_group_norm_leaves_no_batch_norm_and_fits_any_width():
    kinds = {type(module) for module in build("resnet8", "group", width=5).modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds


@pytest.mark.parametrize("arch", ["resnet8", "resnet18"])
def test_weights_depend_on_the_seed_and_not_on_the_global_state(arch):
    torch.manual_seed(0)
    first = build(arch).state_dict()
    torch.manual_seed(1)
    second, other = build(arch).state_dict(), build(arch, seed="other").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    drawn = [name for name, value in first.items() if value.ndim > 1]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    build("resnet8")
    build("resnet18")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(UserError, match="arch='resnet15': unknown classifier; did you mean 'resnet1"):
        build("resnet15")


TRAIN_NARROW = """
import torch
from fedkr.config import ClassifierConfig
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
torch.set_num_threads(1)
model = build_classifier(ClassifierConfig(arch="resnet8", width=4), Shape(1, 8, 3), "seed")
model.to(memory_format=torch.channels_last)
held = []
for step in range(30):
    images = torch.randn(16, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    model(images).square().mean().backward()
    held.append([torch.empty(7 * count + 1) for count in range(20)])
print("trained")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc checks the heap")
def test_a_narrow_network_trains_without_writing_past_its_buffers():
    checked = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "5"}
    ended = subprocess.run([sys.executable, "-c", TRAIN_NARROW], env=checked, capture_output=True, text=True)
    assert ended.stdout == "trained\n", ended.stderr
