"""From uint8 images to logits, in batches that bound the memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkr.learning.runtime import Runtime

MOST_AT_ONCE = 512


def to_model_input(images: Tensor) -> Tensor:
    """Turn uint8 ``[N, H, W, C]`` into float32 ``[N, C, H, W]`` in [-1, 1], channels-last in memory."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def forward_batch(side: int) -> int:
    """Return how many images of a side go through a classifier at once: 512 up to 64 pixels, fewer above."""
    return max(1, min(MOST_AT_ONCE, MOST_AT_ONCE * 64 * 64 // side**2))


@torch.inference_mode()
def predict_logits(model: nn.Module, images: NDArray[np.uint8], runtime: Runtime) -> NDArray[np.float32]:
    """Return float32 logits ``[N, K]`` of uint8 images ``[N, H, W, C]``, in batches that bound the memory."""
    model.eval()
    parts, batch = [], forward_batch(images.shape[1])
    for start in range(0, len(images), batch):
        chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(runtime.device)
        with runtime.autocast():
            parts.append(model(to_model_input(chunk)).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def predict_features(model: nn.Module, images: NDArray[np.uint8], runtime: Runtime) -> NDArray[np.float64]:
    """Return float64 ``[N, d]``, what a classifier's last layer is given of uint8 images ``[N, H, W, C]``."""
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    given: list[NDArray[np.float64]] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].double().cpu().numpy()))
    try:
        predict_logits(model, images, runtime)
    finally:
        hook.remove()
    return np.concatenate(given)
