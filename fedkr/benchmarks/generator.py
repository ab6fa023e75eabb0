"""Generators against the plain diffusers loop: training, sampling, memory and, if asked for, time to equal CAS.

All are measured in turns, round by round, so that what else the machine does meets each alike; a ratio is the median
of the rounds' ratios.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedkr.benchmarks.enlarged import enlarged_digits
from fedkr.benchmarks.options import Budget, GeneratorOptions
from fedkr.benchmarks.plain_diffusion import DDIM_STEPS, PlainDiffusion
from fedkr.benchmarks.table import figures_table, machine
from fedkr.config import ClassifierConfig, DataConfig, GeneratorConfig, one_of
from fedkr.data import load_source
from fedkr.data.images import ImageSet, Shape
from fedkr.data.registry import Source
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.generators.checkpointed import CheckpointedGenerator
from fedkr.generators.edm.network import GROUPS
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress, SilentProgress
from fedkr.stages import Artifact

PLAIN, PLAIN_BFLOAT16 = "plain", "plain-bfloat16"
# The network that ``edm`` has for small images, at any side.
TWO_LEVELS = "edm-two-levels"
KINDS = (PLAIN, "edm", "biggan_deep")
KNOWN = (*KINDS, PLAIN_BFLOAT16, TWO_LEVELS)
# Longer than any measurement: the schedules of fedkr's generators decay at the end only.
ENDLESS = 10**6
LEAST_STEPS = 2
WATCH_SECONDS = 0.005
CAS_POINTS = 4
CLASSIFIER = ClassifierConfig(arch="resnet8", width=16, steps=300)
Item = TypeVar("Item")


def check_budget(budget: Budget) -> None:
    """Raise :class:`UserError` for the first number that makes no benchmark."""
    for name, value in asdict(budget).items():
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if budget.size % 4 or budget.size < 8:
        raise UserError(f"--size {budget.size}: must be 8 or more and a multiple of 4")
    if budget.width % GROUPS:
        raise UserError(f"--width {budget.width}: must be a multiple of {GROUPS}")


class Fedkr:
    """A generator of fedkr with its default options; ``steps`` is what its learning-rate schedule ends at."""

    def __init__(self, kind: str, data: ImageSet, budget: Budget, runtime: Runtime, steps: int = ENDLESS) -> None:
        options: dict[str, Any] = {"width": budget.width}
        if kind == TWO_LEVELS:
            kind, options = "edm", options | {"levels": 2, "attention": 1}
        config = GeneratorConfig(kind, steps, budget.batch, 1, options)

        def build() -> CheckpointedGenerator:
            """Return one of two: the one in training, and the one that draws with what the other has learnt."""
            generator = build_generator(config, Shape.of(data), Job(runtime))
            assert isinstance(generator, CheckpointedGenerator)
            return generator

        self.work, self.drawing = build().begin(data, ("benchmark",)), build()

    def advance(self, until: int) -> None:
        """Train up to step ``until``."""
        self.work.advance(until, SilentProgress())

    @property
    def weights(self) -> int:
        """How many weights draw."""
        return sum(weight.numel() for weight in self.drawing.net.parameters())

    def take(self) -> None:
        """Take over the averaged weights of now for drawing."""
        self.drawing.load(Artifact(self.work.state(), {}))

    def draw(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return one image a label, with the default knobs."""
        return np.concatenate(list(self.drawing.sample(labels, self.drawing.default_knobs(), "benchmark")))


Contestant = PlainDiffusion | Fedkr


def contestant(kind: str, data: ImageSet, budget: Budget, runtime: Runtime, draw_steps: int = DDIM_STEPS) -> Contestant:
    """Return what is measured under the name ``kind``."""
    if kind == PLAIN:
        return PlainDiffusion(data, budget, Runtime(runtime.device, None), draw_steps)
    if kind == PLAIN_BFLOAT16:
        return PlainDiffusion(data, budget, runtime, draw_steps)
    return Fedkr(kind, data, budget, runtime)


def kinds_for(runtime: Runtime, asked: str = "") -> tuple[str, ...]:
    """Return what is compared: the ``asked``, with commas between; else all, the plain loop in bfloat16 too where fedkr
    computes in it.

    Raises:
        UserError: a name that is none of them, or is there twice.
    """
    if asked:
        kinds = tuple(asked.split(","))
        for kind in kinds:
            one_of("--kinds", kind, KNOWN, "generator")
            if kinds.count(kind) > 1:
                raise UserError(f"--kinds {asked}: names {kind} twice")
        return kinds
    return KINDS if runtime.autocast_dtype is None else (PLAIN, PLAIN_BFLOAT16, *KINDS[1:])


def bench_generators(options: GeneratorOptions, progress: Progress) -> dict[str, Any]:
    """Return the figures of :func:`measure_generators`, and under ``cas`` those of :func:`measure_cas` if asked for.

    Raises:
        UserError: as these two do; an unknown kind before anything is measured.
    """
    budget = Budget(**{field.name: getattr(options, field.name) for field in fields(Budget)})
    runtime, result = Runtime.choose(options.device, threads=options.threads), dict[str, Any]()
    kinds_for(runtime, options.kinds)
    if options.cas:
        data = DataConfig(name=options.cas, root=str(options.root)).located()
        result["cas"] = measure_cas(data, options.cas_steps, CAS_POINTS, budget, runtime, progress)
    return result | measure_generators(budget, runtime, progress, options.kinds)


def measure_generators(budget: Budget, runtime: Runtime, progress: Progress, asked: str = "") -> dict[str, Any]:
    """Train and sample the plain loop, in float32, and fedkr's generators, or what is ``asked``, in turns.

    Returns:
        ``rows``, one a kind: how many ``weights`` draw, ``train`` and ``sample`` in images/s (medians), ``train_ratio``
        and ``sample_ratio`` to the first kind (medians of the rounds' ratios), and ``peak_mib``, the memory that
        training and sampling took in a process of their own. In ``runtime``, ``clock`` is :func:`clock`'s.

    Raises:
        UserError: a number that makes no benchmark, or an unknown kind.
    """
    check_budget(budget)
    kinds = kinds_for(runtime, asked)
    data, labels = enlarged_digits(budget.size), np.arange(budget.images) % 10
    measured = {kind: contestant(kind, data, budget, runtime) for kind in kinds}
    for one in measured.values():
        _round(one, budget, LEAST_STEPS, labels[:LEAST_STEPS])
    rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    turns = [(turn, kind) for turn in range(budget.rounds) for kind in kinds]
    for turn, kind in _counted(progress, "measure", turns, "turn"):
        until = LEAST_STEPS + (turn + 1) * budget.steps
        rates[kind].append(_round(measured[kind], budget, until, labels))
    peaks = {kind: peak_mib(kind, budget, runtime) for kind in _counted(progress, "memory", kinds, "generator")}
    return {
        "budget": asdict(budget),
        "data": "scikit-learn digits, enlarged",
        "rows": [{"kind": k, "weights": measured[k].weights, "peak_mib": peaks[k]} | _rates(k, rates) for k in kinds],
        "runtime": runtime.describe() | {"threads": torch.get_num_threads(), "clock": clock()},
        **provenance(),
    }


def _counted(progress: Progress, stage: str, items: Sequence[Item], unit: str) -> Iterator[Item]:
    """Yield the items and report how many of them are done."""
    progress.update(stage, 0, len(items), unit=unit)
    for done, item in enumerate(items, 1):
        yield item
        progress.update(stage, done, len(items), unit=unit)
    progress.finish(stage)


def _round(one: Contestant, budget: Budget, until: int, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return images/s of training up to ``until`` and of drawing."""
    _, training = timed(lambda: one.advance(until))
    one.take()
    _, drawing = timed(lambda: one.draw(labels))
    return budget.steps * budget.batch / training, len(labels) / drawing


def clock() -> Literal["process", "wall"]:
    """Return which time :func:`timed` takes: with one thread and no GPU that of this process on a processor, whatever
    else the machine does; else wall time.
    """
    return "wall" if torch.cuda.is_available() or torch.get_num_threads() > 1 else "process"


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` returns and the seconds it took by :func:`clock`, a GPU's queue included."""
    gpu = torch.cuda.is_available()
    now = time.process_time if clock() == "process" else time.perf_counter
    if gpu:
        torch.cuda.synchronize()
    began = now()
    result = work()
    if gpu:
        torch.cuda.synchronize()
    return result, now() - began


def _rates(kind: str, rates: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    row, measure = dict[str, float](), next(iter(rates))
    for place, name in enumerate(("train", "sample")):
        own, first = ([pair[place] for pair in rates[k]] for k in (kind, measure))
        row[name] = statistics.median(own)
        row[f"{name}_ratio"] = statistics.median(a / b for a, b in zip(own, first, strict=True))
    return row


def peak_mib(kind: str, budget: Budget, runtime: Runtime) -> float:
    """Return the most memory in MiB that two steps and one sampling batch take, beyond what was there before.

    On CPU a process of its own, since memory that a process gave back still counts as its peak.
    """
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        before = torch.cuda.memory_allocated(runtime.device)
        _use(kind, budget, runtime)
        return (torch.cuda.max_memory_allocated(runtime.device) - before) / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_process, (kind, budget, runtime, torch.get_num_threads()))


def _use(kind: str, budget: Budget, runtime: Runtime) -> None:
    # Each of DDIM's steps takes the same memory.
    one = contestant(kind, enlarged_digits(budget.size), budget, runtime, draw_steps=LEAST_STEPS)
    one.advance(LEAST_STEPS)
    one.take()
    one.draw(np.arange(budget.images) % 10)


def _peak_of_process(kind: str, budget: Budget, runtime: Runtime, threads: int) -> float:
    torch.set_num_threads(threads)
    # Not the kernel's own peak: a new process is credited with that of the one that started it.
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    seen = [before]

    def watch() -> None:
        """Note the memory in use until the work is over."""
        while not over.wait(WATCH_SECONDS):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _use(kind, budget, runtime)
    finally:
        over.set()
        watcher.join()
    return (max(seen) - before) / 2**20


def measure_cas(
    config: DataConfig, steps: int, points: int, budget: Budget, runtime: Runtime, progress: Progress
) -> dict[str, Any]:
    """Train the plain loop and ``edm`` on a dataset at its own size; return what CAS each has after how many seconds.

    Each trains for ``steps`` steps, and CAS is measured at ``points`` points on the way.

    Returns:
        ``curves``: for each kind, rows of step, training ``seconds``, ``sample_seconds`` and ``cas``; ``target``, the
        lower of the two best CAS; ``seconds_to_target`` for each; and the ``ratio`` of the plain loop's to edm's.

    Raises:
        UserError: numbers that make no benchmark, fewer steps than points, or a dataset that cannot be read.
    """
    check_budget(budget)
    if steps < points:
        raise UserError(f"--cas-steps {steps}: must be at least {points}, one for each point of the curve")
    source = load_source(config)
    makers: dict[str, Callable[[], Contestant]] = {
        PLAIN: lambda: contestant(PLAIN, source.pool, budget, runtime),
        "edm": lambda: Fedkr("edm", source.pool, budget, runtime, steps),
    }
    points_at = [round(steps * (i + 1) / points) for i in range(points)]
    curves = {kind: _cas_curve(kind, make(), source, points_at, runtime, progress) for kind, make in makers.items()}
    target = min(max(row["cas"] for row in rows) for rows in curves.values())
    reached = {kind: next(r["seconds"] for r in rows if r["cas"] >= target) for kind, rows in curves.items()}
    ratio = reached[PLAIN] / reached["edm"]
    return {"data": config.name, "curves": curves, "target": target, "seconds_to_target": reached, "ratio": ratio}


def _cas_curve(
    kind: str, one: Contestant, source: Source, steps: list[int], runtime: Runtime, progress: Progress
) -> list[dict[str, float]]:
    labels, seconds, rows, stage = np.sort(source.pool.labels), 0.0, list[dict[str, float]](), f"CAS of {kind}"
    progress.update(stage, 0, len(steps), unit="point")
    for step in steps:
        seconds += timed(partial(one.advance, step))[1]
        one.take()
        images, sampling = timed(lambda: one.draw(labels))
        cas = score(ImageSet(images, labels, source.pool.classes), source.test, runtime)
        rows.append({"step": step, "seconds": seconds, "sample_seconds": sampling, "cas": cas})
        progress.update(stage, len(rows), len(steps), unit="point", cas=cas)
    progress.finish(stage)
    return rows


def score(drawn: ImageSet, test: ImageSet, runtime: Runtime) -> float:
    """Return CAS: the accuracy on real images of a small classifier trained on drawn ones (Ravuri & Vinyals 2019)."""
    classifier = train_on_real(CLASSIFIER, drawn, Job(runtime, seed=("benchmark",)), "classifier")
    return float((predict_logits(classifier, test.images, runtime).argmax(1) == test.labels).mean())


def print_generators(result: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`measure_generators` returned, with ``cas`` of :func:`measure_cas` where it is there."""
    console, budget = console or Console(), result["budget"]
    title = f"{budget['size']}x{budget['size']}, width {budget['width']}, batch {budget['batch']}"
    to = f"to {result['rows'][0]['kind']}"
    columns = ("weights", "training images/s", to, "sampling images/s", to, "peak MiB")
    table = figures_table(title, "generator", columns)
    for row in result["rows"]:
        rates = itertools.chain(*((f"{row[n]:,.1f}", f"{row[f'{n}_ratio']:.2f}x") for n in ("train", "sample")))
        table.add_row(row["kind"], f"{row['weights']:,}", *rates, f"{row['peak_mib']:,.0f}")
    table.caption = f"{machine(result)}; {result['runtime']['clock']} time"
    console.print(table)
    if "cas" in result:
        console.print(_cas_table(result["cas"]))


def _cas_table(cas: dict[str, Any]) -> Table:
    title = f"CAS on {cas['data']}; {cas['target']:.3f} is reached {cas['ratio']:.1f}x as fast by edm"
    table = figures_table(title, "generator", ("step", "training s", "sampling s", "CAS"))
    for kind, rows in cas["curves"].items():
        for row in rows:
            seconds = (f"{row['seconds']:.1f}", f"{row['sample_seconds']:.1f}")
            table.add_row(kind, str(row["step"]), *seconds, f"{row['cas']:.3f}")
    return table
