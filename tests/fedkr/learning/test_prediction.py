"""From images to what a classifier says of them, and to what its last layer is given."""

import numpy as np
import pytest
import torch

from fedkr.config import ClassifierConfig
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import predict_features, predict_logits
from fedkr.learning.runtime import Runtime


@pytest.mark.parametrize(("arch", "dimensions"), [("resnet8", 16), ("resnet18", 512)])
def test_the_last_layer_of_the_features_is_the_answer(arch, dimensions):
    model = build_classifier(ClassifierConfig(arch=arch, width=4), Shape(1, 8, 3), "features").eval()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    runtime = Runtime.choose("cpu", "float32", 1)
    features = predict_features(model, images, runtime)
    assert features.shape == (6, dimensions)
    (*_, last) = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        logits = last(torch.from_numpy(features).float()).numpy()
    assert np.allclose(logits, predict_logits(model, images, runtime), atol=1e-4)
