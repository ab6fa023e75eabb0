"""A network launched as one: a GPU waits for the processor that launches the hundreds of kernels of a small network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedkr.learning.runtime import Runtime

# Capturing costs as much as some tens of steps, which trainings that are shorter would not earn back.
CAPTURE_AT = 20


class OneLaunch:
    """Calls a network that is in training; on a GPU its forward and its backward pass are a CUDA graph each.

    The graphs are captured after some calls, for the inputs' shapes and types of that call; other inputs, a network in
    evaluation mode and calls without gradients go to the network as they are. Loss, optimiser and data stay outside.
    The memory of the graphs goes with this object; the network itself is left as it was.
    """

    def __init__(self, network: nn.Module, runtime: Runtime) -> None:
        self._network, self._runtime = network, runtime
        self._graphed: Callable[..., Any] | None = None
        self._captured: list[tuple[torch.Size, torch.dtype]] = []
        self._calls = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the network returns for ``inputs``, tensors on its device that need no gradient."""
        trains = self._network.training and torch.is_grad_enabled()
        if self._runtime.device.type != "cuda" or not trains:
            return self._network(*inputs)
        self._calls += 1
        if self._calls < CAPTURE_AT:
            return self._network(*inputs)
        if self._graphed is None:
            self._graphed = self._capture(inputs)
            self._captured = [(one.shape, one.dtype) for one in inputs]
        known = [(one.shape, one.dtype) for one in inputs] == self._captured
        return self._graphed(*inputs) if known else self._network(*inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        dtype, whole = self._runtime.autocast_dtype, _Whole(self._network)
        whole.train(self._network.training)
        # The passes that warm up also move the running statistics of normalisation layers.
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        # A cast weight that autocast keeps for later would not be cast again when a graph is replayed.
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
            samples = tuple(one.detach().clone() for one in inputs)
            graphed = torch.cuda.make_graphed_callables(whole, samples, allow_unused_input=True)
        for buffer, before in zip(self._network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return graphed


class _Whole(nn.Module):
    """A module around the network: capturing replaces a module's forward method, and the network's must stay."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the network returns."""
        return self.network(*inputs)
