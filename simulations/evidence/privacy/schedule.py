"""The work of a sweep, in pieces that other processes do: each begins when those that it needs are done."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkr.config import Study
from fedkr.errors import UserError
from fedkr.fingerprint import fingerprint
from simulations.evidence.privacy.answers import is_there, write_answers
from simulations.evidence.privacy.bench import PEERS, Bench, Settings, bench_of
from simulations.evidence.privacy.variants import Variant

# In the order in which a pipeline does them.
TEACHER, GENERATOR, RELEASE, ANSWERS = KINDS = ("teacher", "generator", "release", "answers")
LOG = "tasks.jsonl"
# Variants that share what these options say share the piece; a release and what is made of it is every variant's own.
SHARED: dict[str, Callable[[Study], Any]] = {
    TEACHER: lambda study: dataclasses.asdict(study.teacher),
    GENERATOR: lambda study: [
        *(dataclasses.asdict(part) for part in (study.generator, study.privacy)),
        study.recycle.min_class_count,
    ],
}


@dataclass(frozen=True)
class Task:
    """One piece of work: a ``kind`` of piece, for a variant and the number of a pipeline."""

    kind: str
    variant: Variant
    number: int

    @property
    def name(self) -> str:
        """What tells tasks apart."""
        return f"{self.kind} {self.variant.name} {self.number}"


def plan(bench: Bench, variants: Sequence[Variant]) -> dict[str, tuple[Task, set[str]]]:
    """Return, by name and in order, all tasks that are not done, each with the names of those that it needs."""
    found: dict[str, tuple[Task, set[str]]] = {}
    first, others = bench.settings.pipelines, range(bench.settings.pipelines, bench.settings.pipelines + PEERS)
    owners: dict[str, Variant] = {}

    def add(kind: str, variant: Variant, number: int, needs: set[str]) -> str:
        task = Task(kind, variant, number)
        found.setdefault(task.name, (task, needs))
        return task.name

    def released(variant: Variant, number: int) -> str:
        study, needs = bench.study(variant), set[str]()
        for kind, of in SHARED.items():
            owner = owners.setdefault(fingerprint([kind, of(study)]), variant)
            needs.add(add(kind, owner, number, set()))
        return add(RELEASE, variant, number, needs)

    for variant in variants:
        for number in range(first):
            if not is_there(bench, variant, number):
                needs = {released(variant, peer) for peer in others} | {released(variant, number)}
                add(ANSWERS, variant, number, needs)
    return found


def run_all(settings: Settings, variants: Sequence[Variant], processes: int) -> Iterator[str]:
    """Do all tasks that are not done, the earlier ones first; yield a line on each.

    A task that fails takes with it only what needs it.

    Raises:
        UserError: in the end, where tasks failed.
    """
    waiting, done, failed = plan(bench_of(settings), variants), set[str](), 0
    running: dict[Future[float], Task] = {}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                # No more than can run: one that is ready later, but stands earlier, goes first.
                ready = [name for name, (_, needs) in waiting.items() if needs <= done][: processes - len(running)]
                for name in ready:
                    task, _ = waiting.pop(name)
                    running[pool.submit(do, settings, task)] = task
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    if (error := future.exception()) is not None:
                        failed += 1
                        yield f"{task.name}: failed, {type(error).__name__}: {error}"
                        continue
                    done.add(task.name)
                    yield _logged(settings, task, future.result(), len(waiting) + len(running))
        except BaseException:
            # Stopped: a task takes minutes, and what it had done of them is of no use.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    if failed:
        raise UserError(f"{failed} tasks failed, and {len(waiting)} need them; the same command tries them again")


def do(settings: Settings, task: Task) -> float:
    """Do one task in this process; return its seconds. What was done before is read."""
    bench, started = bench_of(settings), time.perf_counter()
    if task.kind == ANSWERS:
        write_answers(bench, task.variant, task.number)
    else:
        pipeline = bench.pipeline(task.variant, task.number)
        work: dict[str, Callable[[], Any]] = {
            TEACHER: pipeline.teacher,
            GENERATOR: pipeline.generator_info,
            RELEASE: lambda: pipeline.releases(None),
        }
        work[task.kind]()
    return time.perf_counter() - started


def _logged(settings: Settings, task: Task, seconds: float, left: int) -> str:
    line = {"kind": task.kind, "variant": task.variant.name, "pipeline": task.number, "seconds": round(seconds, 2)}
    with (Path(settings.out) / LOG).open("a") as log:
        log.write(json.dumps(line) + "\n")
    return f"{task.name}: {seconds:.1f} s; {left} left"
