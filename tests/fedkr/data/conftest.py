"""Folders and files that the data tests read."""

import os
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def real_data():
    """Return the folder of real MedMNIST files, or skip where this machine has none."""
    named = os.environ.get("FEDKR_DATA")
    folder = Path(named) if named else REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data; name one by FEDKR_DATA")
    return folder


@pytest.fixture
def arrays():
    """Return a small valid file in the MedMNIST layout, as a dict of arrays."""
    rng = np.random.default_rng(0)

    def split(count):
        return rng.integers(0, 256, (count, 6, 6), dtype=np.uint8), np.arange(count)[:, None] % 2

    names = (f"{name}_{what}" for name in ("train", "val", "test") for what in ("images", "labels"))
    return dict(zip(names, [*split(40), *split(10), *split(14)], strict=True))


@pytest.fixture
def save(tmp_path):
    """Return a function that writes arrays as ``.npz`` and returns the path as text."""

    def write(arrays, name="own.npz"):
        np.savez_compressed(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return write
