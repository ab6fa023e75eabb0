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
from rich.console import Console

from fedkr.audit.references.direct import (
    ENGINES,
    choose_engine,
    chunk_size,
    reference_halves,
    reference_task,
    train_chunk,
)
from fedkr.audit.references.engines import ReferenceTask
from fedkr.benchmarks.enlarged import enlarged_digits
from fedkr.benchmarks.table import figures_table, machine
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
WORDS = {
    "loop": "one after the other",
    "grouped": "together, grouped",
    "matmul": "together, matmul",
}


def measure_audit(
    models: int, size: int, steps: int, runtime: Runtime, recipe: ClassifierConfig | None = None
) -> dict[str, Any]:
    """Train an even number of reference models for ``steps`` steps each by every engine; return the times.

    The images have ``size`` by ``size`` pixels; the classifier is fedkr's default where ``recipe`` is not given.

    Returns:
        ``rows``, one an engine: models of a chunk, seconds, steps of single models a second, and the ``ratio`` of the
        loop's seconds to its own; ``default`` is the engine that an audit would use here, ``ratio`` that row's.

    Raises:
        UserError: a number that makes no benchmark.
    """
    if size < LEAST_SIZE:
        raise UserError(f"--size {size}: the digits have {LEAST_SIZE} pixels and are only enlarged")
    if steps < 1:
        raise UserError(f"--steps {steps}: must be at least 1")
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
    title = (
        f"{result['models']} reference models ({result['recipe']['arch']}, {result['size']}x{result['size']}), "
        f"{result['steps']} steps each"
    )
    table = figures_table(title, "trained", ("chunk", "seconds", "steps/s", "speed-up"))
    for row in result["rows"]:
        name = WORDS[row["engine"]] + (" (default here)" if row["engine"] == result["default"] else "")
        speed, ratio = f"{row['models_steps_per_second']:,.1f}", f"{row['ratio']:.2f}x"
        table.add_row(name, str(row["together"]), f"{row['seconds']:.1f}", speed, ratio)
    table.caption = f"steps of single models; chunk: models trained at once\n{machine(result)}"
    (console or Console()).print(table)


def _task(models: int, size: int, steps: int, runtime: Runtime, recipe: ClassifierConfig) -> ReferenceTask:
    data = enlarged_digits(size)
    membership = reference_halves(models, data, numpy_rng("benchmark", "membership"))
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
