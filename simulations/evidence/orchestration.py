"""Wall time of one study on Ray against the same study inline, one after the other in one go.

``python -m simulations.evidence.orchestration OUT.json [override ...]``
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.report.results import load_results
from server.composition import compose_study
from simulations.study.run import run_study


def measure(overrides: list[str]) -> dict[str, object]:
    """Run the study inline and on Ray, each in a fresh folder; return both wall times and whether they agree."""
    seconds: dict[str, float] = {}
    accuracies: dict[str, list[float | None]] = {}
    for backend in ("inline", "ray"):
        with tempfile.TemporaryDirectory() as folder:
            study = compose_study([*overrides, f"backend={backend}", f"out={folder}"])
            started = time.perf_counter()
            run = run_study(study)
            seconds[backend] = time.perf_counter() - started
            accuracies[backend] = [row.get("accuracy") for row in load_results(run)["strategies"]]
    return {
        "command": " ".join(["python -m simulations.evidence.orchestration OUT.json", *overrides]),
        "inline_seconds": seconds["inline"],
        "ray_seconds": seconds["ray"],
        "bound_seconds": 0.75 * seconds["inline"] + 20,
        "same_accuracies": accuracies["inline"] == accuracies["ray"],
        "sites": study.federation.sites,
        "threads": study.threads,
        **provenance(),
    }


def main(arguments: list[str]) -> None:
    """Measure and write the result as JSON."""
    result = measure(arguments[1:])
    write_json(Path(arguments[0]), result)
    print(f"inline {result['inline_seconds']:.1f} s, ray {result['ray_seconds']:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
