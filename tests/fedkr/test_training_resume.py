"""A training continued from its file: bit by bit the one that was never interrupted."""

import pytest
import torch
from torch import nn

from fedkr.learning.runtime import Runtime
from fedkr.learning.training import Average, Training
from fedkr.progress import SilentProgress
from fedkr.stages import Artifact, read_artifact, write_artifact

OPTIMIZERS = {
    "fused Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}


def make(optimizer, **options):
    torch.manual_seed(0)
    runtime = Runtime.choose("cpu", "float32", 1)
    model = runtime.place(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)))
    return Training(model, OPTIMIZERS[optimizer](model.parameters()), lambda step: 1.0, runtime, **options)


def advance(training, until):
    def loss_at(step):
        images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))
        return training.model(images).square().mean()

    training.advance(loss_at, until, SilentProgress(), "test")
    return training.state()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_read_from_its_file_goes_on_bit_by_bit(optimizer, tmp_path):
    whole = advance(make(optimizer, average=Average(0.9)), 6)
    write_artifact(tmp_path / "state", Artifact(advance(make(optimizer, average=Average(0.9)), 3)))
    continued = make(optimizer, average=Average(0.9))
    continued.restore(read_artifact(tmp_path / "state").tensors, 3)
    resumed = advance(continued, 6)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_the_average_is_a_copy_of_the_weights_up_to_its_start():
    training = make("fused Adam", average=Average(0.9, 3))
    state = advance(training, 3)
    assert torch.equal(state["average.0.weight"], state["model.0.weight"])
    state = advance(training, 5)
    assert not torch.equal(state["average.0.weight"], state["model.0.weight"])
