"""What ``fedkr bench generator`` measures, without the libraries that measure it: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True)
class Budget:
    """How much each generator trains and draws."""

    size: Annotated[int, Option(help="Height and width of the images in pixels, a multiple of 4.")] = 28
    batch: Annotated[int, Option(help="Images a training step.")] = 32
    width: Annotated[int, Option(help="Feature channels of each network's first level.")] = 32
    steps: Annotated[int, Option(help="Training steps a round.")] = 8
    images: Annotated[int, Option(help="Images drawn a round.")] = 256
    rounds: Annotated[int, Option(help="How often each is measured, in turns.")] = 5


@dataclass(frozen=True)
class GeneratorOptions(Budget):
    """A budget, what is measured, whether CAS is compared too and on which data, and where all of it runs."""

    kinds: Annotated[
        str,
        Option(help="What is measured, with commas between: plain, plain-bfloat16, edm, edm-two-levels, biggan_deep."),
    ] = ""
    cas: Annotated[str, Option(help="Dataset to compare the time to equal CAS on, such as digits.")] = ""
    cas_steps: Annotated[int, Option(help="Training steps of each for CAS.")] = 600
    root: Annotated[Path, Option(help="Folder of that dataset's file.")] = Path("data")
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[int, Option(help="torch threads on a processor.")] = 1
