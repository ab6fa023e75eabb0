"""Classifiers by name: shapes, and weights that are a function of the seed alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fedkr.config import ClassifierConfig, StudentConfig
from fedkr.data.components import Components
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier, build_student, load_classifier
from fedkr.learning.prediction import to_model_input
from fedkr.learning.runtime import Runtime


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


@pytest.mark.parametrize(("channels", "size", "count"), [(1, 8, 20), (3, 12, 40)])
def test_a_student_behind_a_low_pass_sees_what_the_components_keep(channels, size, count):
    images = np.random.default_rng(0).integers(0, 256, (6, size, size, channels), dtype=np.uint8)
    shape = Shape(channels, size, 3)
    recipe = StudentConfig(arch="resnet8", width=4, components=count)
    student, components = build_student(recipe, shape, "seed").eval(), Components(shape, count)
    seen = student.front(to_model_input(torch.from_numpy(images)))
    kept = to_model_input(torch.from_numpy(components.to_images(components.of_images(images))))
    assert (seen - kept).abs().max() <= 0.51 / 127.5, "but for the rounding to whole grey levels"
    assert (seen - to_model_input(torch.from_numpy(images))).abs().max() > 0.1
    plain = build_classifier(recipe, shape, "seed").eval()
    assert torch.allclose(student(to_model_input(torch.from_numpy(images))), plain(seen))


def test_a_student_without_components_is_the_plain_classifier():
    recipe = StudentConfig(arch="resnet8", width=4)
    assert build_student(recipe, Shape(1, 8, 3), "s").state_dict().keys() == build().state_dict().keys()


def test_weights_say_what_their_classifier_is_behind():
    recipe, shape = StudentConfig(arch="resnet8", width=4, components=20), Shape(1, 8, 3)
    student = build_student(recipe, shape, "s").eval()
    runtime = Runtime.choose("cpu", "float32", 1)
    # Of a study that leaves it out, as every other contestant of the same study does.
    loaded = load_classifier(ClassifierConfig(arch="resnet8", width=4), shape, student.state_dict(), runtime)
    images = torch.rand(4, 1, 8, 8)
    assert torch.allclose(loaded(images), student(images), atol=1e-6)
    assert not torch.allclose(loaded(images), student.classifier(images), atol=1e-4)
    plain = build_classifier(recipe, shape, "s")
    assert not hasattr(load_classifier(recipe, shape, plain.state_dict(), runtime), "front")


@pytest.mark.parametrize("kept", [torch.ones(1, 9, 9), torch.tensor(1.0), torch.full((1, 8, 8), torch.nan)], ids=str)
def test_a_front_that_fits_no_image_is_refused(kept):
    recipe, shape = StudentConfig(arch="resnet8", width=4, components=20), Shape(1, 8, 3)
    weights = build_student(recipe, shape, "s").state_dict() | {"front.kept": kept}
    with pytest.raises(UserError, match="model weights: "):
        load_classifier(recipe, shape, weights, Runtime.choose("cpu", "float32", 1))
