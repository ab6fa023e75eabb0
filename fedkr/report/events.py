"""The run as TensorBoard events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from fedkr.report.results import Results
from fedkr.report.samples import SiteSamples, shown_classes, tile_grid
from fedkr.report.selection import references_kind

SUFFIX = ".report"
GRID_COLUMNS = 8


def write_events(folder: Path, results: Results, samples: dict[str, SiteSamples]) -> None:
    """Write scores, curves, audit and sample grids to ``folder``, in place of an earlier report's."""
    for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        old.unlink()
    with SummaryWriter(str(folder), filename_suffix=SUFFIX) as writer:
        _write_strategies(writer, results)
        _write_curves(writer, results)
        _write_audit(writer, results)
        for site, few in samples.items():
            _write_grids(writer, site, few)


def _write_strategies(writer: SummaryWriter, results: Results) -> None:
    for strategy in results["strategies"]:
        for key in ("accuracy", "balanced_accuracy", "auc", "bytes_up", "bytes_down", "seconds"):
            _scalar(writer, f"comparison/{key}/{strategy['name']}", strategy.get(key), 0)
        for score in strategy.get("per_site", []):
            _scalar(writer, f"own_test/{strategy['name']}/{score['site']}", score.get("accuracy"), 0)


def _write_curves(writer: SummaryWriter, results: Results) -> None:
    for point in results.get("weights_search", []):
        name = f"weights_search/{point['strategy']}/lr_{point['lr']:g}_epochs_{point['local_epochs']}"
        name += f"_{point['norm']}" if point.get("norm") == "group" else ""
        _scalar(writer, name, point["val_accuracy"], point["round"])
    for site, tried in results.get("recycling", {}).items():
        for checkpoint in tried.get("checkpoints", []):
            _scalar(writer, f"checkpoint_score/{site}", checkpoint["score"], checkpoint["step"])


def _write_audit(writer: SummaryWriter, results: Results) -> None:
    for row in results.get("audit", []):
        references = references_kind(row)
        attack = f"{row['attack']}-{references}" if references else row["attack"]
        _scalar(writer, f"audit_auc/{row['target']}/{attack}/{row['site']}", row.get("auc"), 0)


def _write_grids(writer: SummaryWriter, site: str, samples: SiteSamples) -> None:
    rows = shown_classes(samples, len(samples.classes))
    for name, (images, labels) in samples.halves.items():
        tile = int(np.clip(images.shape[1], 24, 64))
        writer.add_image(f"{site}/{name}", tile_grid(images, labels, rows, GRID_COLUMNS, tile), 0, dataformats="HWC")


def _scalar(writer: SummaryWriter, name: str, value: object, step: int) -> None:
    if isinstance(value, (int, float)):
        writer.add_scalar(name, value, step)
