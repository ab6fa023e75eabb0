"""``fedkr privacy RUN``: the rehearsal of simulated sites, with the stages that a run left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedkr.config import one_of
from simulations.run_folder import RunFolder
from sites.rehearsal import AS_IS, Rehearsed, changed, rehearse, rehearsed_study, usual_changes
from sites.workspace import open_site


def rehearse_run(run: Path, site: str, references: int, changes: Sequence[str] | None) -> Iterator[Rehearsed]:
    """Yield the rehearsal of a run's study at one of its sites as it is, then with each change alone.

    ``changes`` are ``group.option=value``, or several with spaces between; None takes those that usually help.

    Raises:
        UserError: no run, no such site, other images than the run's, or a change that no run could work with.
    """
    folder = RunFolder.of_run(run)
    count = folder.study.federation.sites
    names = [f"site-{number}" for number in range(count)]
    one_of("SITE", site, tuple(names), "site")
    study = rehearsed_study(dataclasses.replace(folder.study, run_dir=str(folder.files.folder)), references)
    wanted = usual_changes(study) if changes is None else changes
    studies = {AS_IS: study} | {change: changed(study, change) for change in wanted}
    node = {"partition-id": names.index(site), "num-partitions": count}
    with folder.held():
        for change, each in studies.items():
            yield rehearse(open_site(node, each), change)
