"""Any file that is read as a saved release or as an exported student is one, or is refused in one line."""

import json
import struct

import numpy as np
import pytest
import torch

from fedkr.config import StudentConfig
from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from fedkr.release import Release, read_slice, slice_count
from fedkr.stages import Artifact, model_tensors, read_artifact, write_artifact
from simulations.export.bundle import ModelDescription, read_student
from tests.hostile import damaged, json_text, mutated, read_bounded, thorough

MANIFEST = {"site": "a", "round": 1, "slices": 3, "count": 6, "left_out": []}
RELEASE = Release(np.zeros((6, 4, 4, 1), np.uint8), np.full((6, 2), 0.5, np.float16), MANIFEST)
STUDENT = ModelDescription(["ill", "well"], 8, 1, StudentConfig(arch="resnet8", width=2))


def hostile_file(rng, content):
    """Return a safetensors file whose tensors' header, document or bytes are wrong."""
    length = struct.unpack("<Q", content[:8])[0]
    header, tensors, kind = json.loads(content[8 : 8 + length]), content[8 + length :], rng.randrange(5)
    if kind == 0:
        return damaged(rng, content)
    if kind < 3:
        name = rng.choice(sorted(header["__metadata__"]))
        header["__metadata__"][name] = json_text(rng, json.loads(header["__metadata__"][name]))
    elif kind == 3:
        header = mutated(rng, header)
    else:
        tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
        tensor["dtype"] = rng.choice(["U8", "F16", "F32", "BF16", "F8_E4M3", "I64", "BOOL", "X"])
        tensor["shape"] = rng.choice(
            [tensor["shape"][::-1], [], [2**40, 0], [-1], [*tensor["shape"], 1], tensor["shape"]]
        )
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the bytes of a release, of a stage and of a student as fedkr writes them."""
    folder = tmp_path_factory.mktemp("saved")
    RELEASE.save(folder / "release")
    weights = model_tensors(build_classifier(STUDENT.classifier, Shape(1, 8, 2), "any"))
    write_artifact(folder / "stage", Artifact({"a": torch.ones(2)}, {"b": [1, {"c": 2}]}))
    student = Artifact(weights)
    write_artifact(folder / "student", student)
    # What is imported as the first one is built is not of a case.
    read_student(_exported(folder / "student", folder / "exported"))
    return {name: (folder / name).read_bytes() for name in ("release", "stage", "exported")}


def _exported(saved, path):
    """Write a student as an export has it; return its path."""
    content = saved.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": STUDENT.as_metadata()}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


def read_release(path):
    release, count = Release.load(path), slice_count(path)
    return release, count, [read_slice(path, index) for index in range(min(count, 3))]


@thorough
def test_what_is_read_as_a_saved_release_is_one(rng, saved, tmp_path):
    (tmp_path / "case").write_bytes(hostile_file(rng, saved["release"]))
    accepted, found = read_bounded("release file", read_release, tmp_path / "case")
    if accepted:
        release, count, slices = found
        assert (release.images.dtype, release.images.ndim) == (np.uint8, 4)
        assert (release.soft_labels.dtype, release.soft_labels.ndim) == (np.float16, 2)
        assert 1 <= count <= len(release.images) == len(release.soft_labels) and len(release.images) % count == 0
        assert type(count) is int and isinstance(release.manifest, dict)
        assert all(len(part.images) == len(part.soft_labels) == len(release) // count for part in slices)


@thorough
def test_what_is_read_as_a_stage_is_one(rng, saved, tmp_path):
    (tmp_path / "case").write_bytes(hostile_file(rng, saved["stage"]))
    accepted, artifact = read_bounded("stage file", read_artifact, tmp_path / "case")
    assert not accepted or isinstance(artifact.info, dict)


@thorough
def test_what_is_read_as_an_exported_student_is_one(rng, saved, tmp_path):
    (tmp_path / "student.safetensors").write_bytes(hostile_file(rng, saved["exported"]))
    accepted, found = read_bounded("student", read_student, tmp_path / "student.safetensors")
    if accepted:
        network, about = found
        assert 1 <= about.size <= 4096 and about.channels in (1, 3) and 1 <= len(about.classes) <= 1000
        assert all(torch.isfinite(value.double()).all() for value in network.state_dict().values())
