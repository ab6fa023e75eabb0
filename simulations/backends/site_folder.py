"""What a hospital has on its own machine, made for each site of a study: its images and its site file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkr.config import CANARY_KINDS, Study
from fedkr.data import ImageSet, partition_sites, study_source
from fedkr.network.certificates import make_private
from sites.admission import SPLIT_FILE
from sites.policy import SIMULATED
from sites.studies import BOUNDS, named_modules
from sites.workspace import Connection, read_site_file

# A study on one machine has one owner, so its sites allow all that the study may ask for.
POLICY = dataclasses.asdict(SIMULATED)
SITE_FILE = "site.yaml"


def write_site_folders(study: Study, run_dir: Path) -> list[Path]:
    """Deal the study's dataset out to ``run_dir/deploy/site-0``, ``site-1``, ...; return these folders.

    Each holds ``data.npz`` (the site's images and the global test set, MedMNIST layout, mode 0600) and ``site.yaml``,
    and nothing of any other site.
    """
    source = study_source(study)
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


def own_split(study: Study) -> dict[str, Any]:
    """Return the site file's split that deals as the study says, as in a simulation without site files."""
    own = {"seed": study.seed, "coins": study.audit.coins, "canary_kinds": list(CANARY_KINDS)}
    return dataclasses.asdict(study.split) | own


def own_rules(study: Study) -> dict[str, Any]:
    """Return the site file's rules by which any study may run that names the modules of this one."""
    modules = [name for _, name in named_modules(study)]
    bounds = {name: [-1e38, 1e38] for name in BOUNDS}
    return {"bounds": bounds, "modules": modules, "hours": 1e6, "gigabytes": 1e6}


def _write_data(path: Path, train: ImageSet, test: ImageSet) -> None:
    arrays: dict[str, Any] = {
        "train_images": train.images,
        # As names: numbers could be taken for the names of other classes.
        "train_labels": np.array(train.classes, dtype=np.str_)[train.labels],
        "test_images": test.images,
        "test_labels": np.array(test.classes, dtype=np.str_)[test.labels],
        "classes": np.array(train.classes, dtype=np.str_),
    }
    if train.groups is not None:
        arrays["train_groups"] = train.groups
    if test.groups is not None:
        arrays["test_groups"] = test.groups
    np.savez(make_private(path), **arrays)


def _write_site_file(folder: Path, study: Study, run_dir: Path, classes: Sequence[str]) -> None:
    values = {
        "name": folder.name,
        "workspace": str(run_dir.absolute() / "sites" / folder.name),
        "data": {"name": "npz", "path": str(folder / "data.npz"), "classes": list(classes)},
        "device": study.device,
        "threads": study.threads,
        "policy": POLICY,
        "split": own_split(study),
        "studies": own_rules(study),
    }
    (folder / SITE_FILE).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    # Here the split is the study's, which may be another than before.
    (Path(read_site_file(folder / SITE_FILE).records) / SPLIT_FILE).unlink(missing_ok=True)
