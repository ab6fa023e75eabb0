"""The options of ``fedkr audit --model``, without the libraries that the audit needs: the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None for what is known of the model, or usual."""

    model: Annotated[Path, Option(help="Not a run: TorchScript, weights (.safetensors, .pt) or an export folder.")]
    data: Annotated[Path, Option(help="Its npz: train_* members, holdout_* or val_* non-members.")]
    out: Annotated[Path | None, Option(help="Folder to write to; audit-MODEL if not given.")] = None
    preset: Annotated[str, Option(help="light (no reference models) or full.")] = "full"
    references: Annotated[int, Option(help="Reference models of full, an even number.")] = 16
    arch: Annotated[str | None, Option(help="Architecture of weights and references; resnet14.")] = None
    width: Annotated[int | None, Option(min=1, help="Its width; 16.")] = None
    steps: Annotated[int | None, Option(min=1, help="Training steps that the model had on its data; 500.")] = None
    classes: Annotated[int | None, Option(min=2, help="Classes of the model, if the data lack some.")] = None
    mean: Annotated[str, Option(help="Mean of the model's input, of images in [0, 1].")] = "0.5"
    std: Annotated[str, Option(help="Its standard deviation; 0.5 with mean 0.5 is [-1, 1].")] = "0.5"
    flip: Annotated[str, Option(help="Mirror images that count as real: none, horizontal, both.")] = "none"
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[int, Option(min=1, help="torch threads on a processor.")] = 1
    seed: Annotated[int, Option(help="Seed of reference models and intervals.")] = 0
