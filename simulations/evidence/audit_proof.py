"""Proof that the audit finds what is there, and finds nothing where nothing is.

``python -m simulations.evidence.audit_proof OUT.json --data-root DIR [--part copies ...] [--seeds 0 1 ...]``

Parts: ``copies`` (members copied into a release), ``blind`` (a shifted test split), ``null`` (a model of other images),
``overfit`` (a model that knows its images by heart) and ``few`` (how many references an attack needs). Each writes its
own section of OUT.json; every seed is kept in ``--work``, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.stages import StageStore
from simulations.evidence.proof import Bench, Figures
from simulations.evidence.proof_images import prove_blind, prove_copies
from simulations.evidence.proof_models import prove_null, prove_overfit
from simulations.evidence.proof_references import prove_few

PARTS: dict[str, Callable[[Bench, Sequence[int]], Figures]] = {
    "copies": prove_copies,
    "blind": prove_blind,
    "null": prove_null,
    "overfit": prove_overfit,
    "few": prove_few,
}
# How often each part is repeated, named before the first was run.
SEEDS = {"copies": 5, "blind": 20, "null": 100, "overfit": 1, "few": 5}


def main(arguments: Sequence[str]) -> None:
    """Run the parts that are asked for and write each as a section of the JSON file."""
    options = _parser().parse_args(arguments)
    bench = Bench(
        options.data_root,
        StageStore(options.work / "stages"),
        Runtime.choose(options.device, "float32", 1),
        FileProgress(options.work),
    )
    for part in options.part or PARTS:
        seeds = options.seeds or range(SEEDS[part])
        section = run_part(part, bench, list(seeds))
        add_section(options.out, part, section)
        print(f"{part}: {json.dumps(section['holds'])}", flush=True)


def run_part(part: str, bench: Bench, seeds: Sequence[int]) -> Figures:
    """Return one part's figures with the command, the seeds and the machine that they came from."""
    started = time.perf_counter()
    found = PARTS[part](bench, seeds)
    command = ["python", "-m", "simulations.evidence.audit_proof", "OUT.json", "--data-root", "DIR", "--part", part]
    if list(seeds) != list(range(SEEDS[part])):
        command += ["--seeds", *map(str, seeds)]
    return {
        "command": shlex.join(command),
        "seeds": list(seeds),
        **found,
        "seconds_this_time": time.perf_counter() - started,
        "runtime": bench.runtime.describe() | {"threads": 1},
        **provenance(),
    }


def add_section(path: Path, part: str, section: Figures) -> None:
    """Write a section into the JSON file, beside those of other parts.

    Raises:
        UserError: the file is there and is no JSON object.
    """
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); name another file") from None
    if not isinstance(known, dict):
        raise UserError(f"{path}: holds no sections; name another file")
    write_json(path, known | {part: section})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of pneumoniamnist.npz")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="all if not given")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of each part's own list")
    parser.add_argument("--work", type=Path, default=Path("runs/audit-proof"), help="where stages are kept")
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
