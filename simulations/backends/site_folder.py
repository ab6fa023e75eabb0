"""What a hospital has on its own machine, made for each site of a study: its images, its site file, its node config."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkr.config import Study
from fedkr.data import ImageSet, load_source, partition_sites
from simulations.backends import bundle
from simulations.backends.certificates import make_private
from sites.policy import SIMULATED

# A study on one machine has one owner, so its sites allow all that the study may ask for.
POLICY = dataclasses.asdict(SIMULATED)


def write_site_folders(study: Study, run_dir: Path) -> list[Path]:
    """Deal the study's dataset out to ``run_dir/deploy/site-0``, ``site-1``, ...; return these folders.

    Each holds ``data.npz`` (the site's images and the global test set, MedMNIST layout, mode 0600), ``site.yaml`` and
    ``node.toml``, and nothing of any other site.
    """
    source = load_source(study.data)
    folders = []
    for site, indices in enumerate(partition_sites(source.pool, study)):
        folder = run_dir.absolute() / "deploy" / f"site-{site}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_data(folder / "data.npz", source.pool.subset(indices), source.test)
        _write_site_file(folder, study, run_dir, source.pool.classes)
        bundle.write_toml(folder / "node.toml", {"site-file": str(folder / "site.yaml")})
        folders.append(folder)
    return folders


def _write_data(path: Path, train: ImageSet, test: ImageSet) -> None:
    arrays: dict[str, Any] = {
        "train_images": train.images,
        "train_labels": train.labels,
        "test_images": test.images,
        "test_labels": test.labels,
        "classes": np.array(train.classes, dtype=np.str_),
    }
    if train.groups is not None:
        arrays["train_groups"] = train.groups
    np.savez(make_private(path), **arrays)


def _write_site_file(folder: Path, study: Study, run_dir: Path, classes: Sequence[str]) -> None:
    values = {
        "name": folder.name,
        "workspace": str(run_dir.absolute() / "sites" / folder.name),
        "data": {"name": "npz", "path": str(folder / "data.npz"), "classes": list(classes)},
        "device": study.device,
        "threads": study.threads,
        "policy": POLICY,
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
