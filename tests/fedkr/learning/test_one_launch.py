"""Graphs of a network's passes: the same numbers, statistics and gradients as without them."""

import copy

import pytest
import torch
from torch import nn

from fedkr.learning import one_launch
from fedkr.learning.one_launch import OneLaunch
from fedkr.learning.runtime import Runtime
from fedkr.learning.training import Training

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).train()


def inputs(step: int, device: str = "cpu", batch: int = 8) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(step)).to(device)


def trained(call, module: nn.Module, device: str, steps: int) -> list[float]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    training = Training(module, optimizer, lambda step: 1.0, Runtime(torch.device(device), None))
    return [
        float(training.take_step(lambda step: call(inputs(step, device)).float().square().mean())) for _ in range(steps)
    ]


def test_without_a_gpu_it_is_the_network(monkeypatch):
    monkeypatch.setattr(one_launch, "CAPTURE_AT", 1)
    plain, launched = network(), network()
    runtime = Runtime(torch.device("cpu"), None)
    assert trained(OneLaunch(launched, runtime), launched, "cpu", 4) == trained(plain, plain, "cpu", 4)


@on_gpu
def test_graphs_train_as_the_network_does(monkeypatch):
    monkeypatch.setattr(one_launch, "CAPTURE_AT", 3)
    plain = network().to("cuda")
    launched = copy.deepcopy(plain)
    runtime = Runtime(torch.device("cuda"), None)
    launch = OneLaunch(launched, runtime)
    assert trained(launch, launched, "cuda", 12) == pytest.approx(trained(plain, plain, "cuda", 12), rel=1e-4)
    assert launch._graphed is not None
    for ours, theirs in zip(launched.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@on_gpu
def test_other_shapes_and_evaluation_go_to_the_network(monkeypatch):
    monkeypatch.setattr(one_launch, "CAPTURE_AT", 1)
    module = network().to("cuda")
    launch = OneLaunch(module, Runtime(torch.device("cuda"), torch.bfloat16))
    launch(inputs(0, "cuda"))
    assert launch(inputs(1, "cuda", batch=5)).shape[0] == 5
    module.eval()
    with torch.inference_mode():
        torch.testing.assert_close(launch(inputs(2, "cuda")), module(inputs(2, "cuda")))
