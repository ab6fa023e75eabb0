"""What a result was computed with."""

import importlib.metadata
import json
import os

from fedkr.environment import hardware, package_versions


def test_versions_are_those_that_are_installed():
    versions = package_versions()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert {"python", "flwr", "numpy", "scikit-learn"} <= set(versions)


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    def version(name):
        if name == "medmnist":
            raise importlib.metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "medmnist" not in package_versions()
    assert package_versions()["ray"] == "1.0"


def test_the_hardware_names_processor_cores_and_memory_and_can_be_written_as_json():
    found = hardware()
    assert found["cores"] == os.cpu_count()
    assert found["processor"]
    assert 0 < found["memory_gib"] < 100_000
    assert json.loads(json.dumps(found)) == found


def test_gpus_are_named_where_there_are_some(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"gpu {index}")
    assert hardware()["gpus"] == ["gpu 0", "gpu 1"]
