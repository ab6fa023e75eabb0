"""What local, FedAvg and centralised training reach on the cuts, under the fair rule.

``python -m simulations.evidence.skew.opponents OUT.json data.root=DIR seeds=0,1,2 [cuts=CUT,...]
[contestants=local,fedavg,centralised] [budget=quick] [longer=1]`` runs them as ``fedkr simulate`` does, with the same
sites, classifiers and numbers as ``simulations.evidence.skew``: up to as many steps as FedKR's rule allots a site, and
as many looks at val. ``longer`` multiplies the part of the student in them: by the number of sites, a site of ``local``
or ``fedavg`` may take as many steps as FedKR does there, and all of the student's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fedkr.config import Study
from fedkr.config.schedule import numbers
from fedkr.errors import UserError
from fedkr.report.results import load_results
from server.composition import compose_study
from server.targets import FIGURES
from simulations.evidence.skew.federation import SMALL, images_of, study_of
from simulations.evidence.skew.rows import Request, Row
from simulations.exits import guarded
from simulations.study.run import run_study


def write_cut(name: str, usual: Study, folder: Path) -> Path:
    """Write the images of a cut in the layout of MedMNIST; return the file's path."""
    pool, test = images_of(name, usual)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cut.npz"
    np.savez(
        path,
        train_images=pool.images,
        train_labels=pool.labels,
        test_images=test.images,
        test_labels=test.labels,
        classes=np.array(pool.classes),
    )
    return path


def measured(name: str, usual: Study, folder: Path, contestants: str, longer: int) -> list[Row]:
    """Return a row of each contestant, with the steps of FedKR and a student so many times longer."""
    images = ["dataset=npz", f"data.path={write_cut(name, usual, folder)}", f"data.flip={usual.data.flip}"]
    dealt = [f"seed={usual.seed}", f"partition.alpha={usual.partition.alpha}"]
    own = numbers(usual) | {"student.steps": longer * usual.student.steps}
    rule = [f"{option}={number}" for option, number in own.items()]
    how = ["audit=off", "backend=inline", "device=cpu", f"strategy.compare=[{contestants}]", f"run_dir={folder}/run"]
    rows = load_results(run_study(compose_study([*SMALL, *images, *dealt, *rule, *how])))["strategies"]
    known = {"opponent": True, "budget": usual.budget, "longer": longer}
    return [
        known | {"way": row["name"]} | {name: value for name, value in row.items() if name in FIGURES} for row in rows
    ]


def main(words: list[str]) -> int:
    """Measure what the words ask for, and write the rows as each cut ends."""
    asked = Request.read(words, contestants="local,fedavg,centralised", budget="quick", longer="1")
    if asked.options["longer"] != "1" and "centralised" in asked.options["contestants"]:
        raise UserError(f"longer={asked.options['longer']}: centralised may take all of the student's steps anyway")

    def of(cut: str, seed: int) -> list[Row]:
        study = study_of(cut, seed, asked.root, asked.options["budget"])
        return measured(cut, study, asked.folder(cut, seed), asked.options["contestants"], int(asked.options["longer"]))

    asked.write(of)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
