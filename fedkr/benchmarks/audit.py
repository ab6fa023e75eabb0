"""Reference models trained together against one after the other: the same models, data and steps, in one process.

The data are scikit-learn's handwritten digits, enlarged to the size asked for: real images of ten classes that need
no download. Only the time of training counts here, and it does not depend on what the images show.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedkr.audit.references.direct import (
    ENGINES,
    balanced_membership,
    choose_engine,
    chunk_size,
    reference_task,
    train_chunk,
)
from fedkr.audit.references.engines import ReferenceTask
from fedkr.benchmarks.enlarged import enlarged_digits
from fedkr.config import ClassifierConfig
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.seeds import numpy_rng
from fedkr.stages import StageStore

LEAST_SIZE = 8
WARM_UP_STEPS = 2
# As batched matrix products a stack takes ten times as long as the loop on a processor: not worth waiting for.
ENGINES_ON_CPU = ("loop", "grouped")


def measure_audit(
    models: int, size: int, steps: int, runtime: Runtime, recipe: ClassifierConfig | None = None
) -> dict[str, Any]:
    """Train ``models`` reference models for ``steps`` steps by each engine; return the times.

    Args:
        models: how many, an even number.
        size: height and width of the images in pixels.
        steps: training steps of each model.
        runtime: where and how.
        recipe: the classifier; fedkr's default if not given.

    Returns:
        ``rows``, one an engine: models of a chunk, seconds, steps of single models a second, and the ``ratio`` of the
        loop's seconds to its own; ``default`` is the engine that an audit would use here, ``ratio`` that row's.

    Raises:
        UserError: a number that makes no benchmark.
    """
    _check(size, steps)
    task = _task(models, size, steps, runtime, recipe or ClassifierConfig())
    engines = ENGINES_ON_CPU if runtime.device.type == "cpu" else ENGINES
    rows = [_row(task, engine) for engine in engines]
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    with tempfile.TemporaryDirectory() as folder:
        default = choose_engine(task, StageStore(Path(folder)), {})
    return {
        "models": models,
        "size": size,
        "steps": steps,
        "data": "scikit-learn digits, enlarged",
        "recipe": dataclasses.asdict(task.config),
        "rows": rows,
        "default": default,
        "ratio": next(row["ratio"] for row in rows if row["engine"] == default),
        "runtime": runtime.describe() | {"threads": torch.get_num_threads()},
        **provenance(),
    }


def print_audit(result: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`measure_audit` returned."""
    table = Table(title=_title(result), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("trained", no_wrap=True)
    for title in ("chunk", "seconds", "steps/s", "speed-up"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result["rows"]:
        name = WORDS[row["engine"]] + (" (default here)" if row["engine"] == result["default"] else "")
        speed, ratio = f"{row['models_steps_per_second']:,.1f}", f"{row['ratio']:.2f}x"
        table.add_row(name, str(row["together"]), f"{row['seconds']:.1f}", speed, ratio)
    table.caption = f"steps of single models; chunk: models trained at once\n{_machine(result)}"
    table.caption_justify = "left"
    (console or Console()).print(table)


WORDS = {
    "loop": "one after the other",
    "grouped": "together, grouped",
    "matmul": "together, matmul",
}


def _check(size: int, steps: int) -> None:
    if size < LEAST_SIZE:
        raise UserError(f"--size {size}: the digits have {LEAST_SIZE} pixels and are only enlarged")
    if steps < 1:
        raise UserError(f"--steps {steps}: must be at least 1")


def _task(models: int, size: int, steps: int, runtime: Runtime, recipe: ClassifierConfig) -> ReferenceTask:
    data = enlarged_digits(size)
    membership = balanced_membership(models, len(data), numpy_rng("benchmark", "membership"))
    config = dataclasses.replace(recipe, steps=steps)
    return reference_task(config, data, membership, None, Job(runtime, seed=("benchmark",)))


def _row(task: ReferenceTask, engine: str) -> dict[str, Any]:
    """Train all models by one engine, after a few steps that pay for what is built once a process."""
    together = min(len(task), chunk_size(task, engine))
    brief = dataclasses.replace(task, config=dataclasses.replace(task.config, steps=WARM_UP_STEPS))
    train_chunk(brief, range(together), engine, SilentProgress())
    began = time.perf_counter()
    for first in range(0, len(task), together):
        train_chunk(task, range(first, min(first + together, len(task))), engine, SilentProgress())
    seconds = time.perf_counter() - began
    return {
        "engine": engine,
        "together": together,
        "seconds": seconds,
        "models_steps_per_second": len(task) * task.config.steps / seconds,
    }


def _title(result: dict[str, Any]) -> str:
    return (
        f"{result['models']} reference models ({result['recipe']['arch']}, {result['size']}x{result['size']}), "
        f"{result['steps']} steps each"
    )


def _machine(result: dict[str, Any]) -> str:
    where, runtime = result["hardware"], result["runtime"]
    device = where["gpus"][0] if runtime["device"] == "cuda" else f"{where['processor']}, {where['cores']} cores"
    return f"{device}; {runtime['precision']}, {runtime['threads']} torch thread(s)"
