"""What a hospital has on its own machine, made for each site of a study: its images and its site file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkr.config import Study
from fedkr.data import ImageSet, load_source, partition_sites
from fedkr.network.certificates import make_private
from sites.policy import SIMULATED
from sites.workspace import Connection

# A study on one machine has one owner, so its sites allow all that the study may ask for.
POLICY = dataclasses.asdict(SIMULATED)
SITE_FILE = "site.yaml"


def write_site_folders(study: Study, run_dir: Path) -> list[Path]:
    """Deal the study's dataset out to ``run_dir/deploy/site-0``, ``site-1``, ...; return these folders.

    Each holds ``data.npz`` (the site's images and the global test set, MedMNIST layout, mode 0600) and ``site.yaml``,
    and nothing of any other site.
    """
    source = load_source(study.data)
    folders = []
    for site, indices in enumerate(partition_sites(source.pool, study)):
        folder = run_dir.absolute() / "deploy" / f"site-{site}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_data(folder / "data.npz", source.pool.subset(indices), source.test)
        _write_site_file(folder, study, run_dir, source.pool.classes)
        folders.append(folder)
    return folders


def write_connection(folder: Path, connection: Connection) -> Path:
    """Write how a site joins into its site file; return that file."""
    path = folder / SITE_FILE
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["connection"] = dataclasses.asdict(connection)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


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
    (folder / SITE_FILE).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
