"""What a hospital's engineer sees before joining: the site file and its data, read as a study would read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedkr.config import Study
from fedkr.data import ImageSet, Source, load_source
from fedkr.data.withdrawn import drop_withdrawn
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from sites.admission import check_split
from sites.handlers import site_card
from sites.join import folder_problems, room_problems
from sites.ledger import Ledger, epsilon_spent, images_released
from sites.policy import Policy
from sites.problems import connection_problems, study_problems, unanswered
from sites.studies import BOUNDS
from sites.workspace import DECODED_FOLDER, Site, SiteFile, open_site, read_site_file

MAY_LEAVE = {
    "metrics": "figures of models on this site's images (accuracy, AUC, audit); never a figure of one image",
    "release": "at most {max_images} synthetic images of all releases together, with soft labels; never a real image",
    "weights": "weights of a model trained on this site's images (weight-sharing baselines only)",
}


def check_site(path: Path) -> dict[str, Any]:
    """Read a site file and its data and return all that the site's engineer should know, as JSON can hold it.

    Nothing is trained and nothing is written; decoded images in the workspace whose files were taken away or changed
    are removed. ``problems`` lists in plain words what would stop a study with default
    settings; ``server_sees`` is the card that the server would get, None where the site cannot be opened.

    Raises:
        UserError: a site file or data that cannot be read, or a device that this machine does not have.
    """
    file = read_site_file(path)
    drop_withdrawn(file.data, Path(file.workspace) / DECODED_FOLDER)
    source = load_source(file.data)
    runtime = Runtime.choose(file.device, threads=file.threads)
    problems = [*folder_problems(file), *room_problems(file), *connection_problems(path, file)]
    try:
        spent = _spent(file)
    except UserError as error:
        spent = None
        problems.append(str(error))
    try:
        check_split(file)
        site = open_site({"site-file": str(path)}, Study())
        problems += study_problems(site)
    except UserError as error:
        site = None
        problems.append(str(error))
    return {
        "name": file.name,
        "workspace": file.workspace,
        **_data_facts(source),
        "split": None if site is None else _split_sizes(site),
        **_rare_classes(source.pool if site is None else site.data.train, file.policy),
        "studies": _studies(file),
        "may_leave": may_leave(file),
        "spent": spent,
        "server_sees": None if site is None else _card(site),
        **runtime.describe(),
        "threads": file.threads,
        "warnings": [*source.warnings, *((*site.warnings, *unanswered(site)) if site else ())],
        "left_out": [f"{item.name}: {item.reason}" for item in source.left_out],
        "problems": problems,
    }


def _data_facts(source: Source) -> dict[str, Any]:
    pool = source.pool
    return {
        "images": len(pool),
        "test_images": len(source.test),
        "patients": None if pool.groups is None else len(np.unique(pool.groups)),
        "size": pool.size,
        "channels": pool.channels,
        "classes": dict(zip(pool.classes, pool.class_counts().tolist(), strict=True)),
    }


def _split_sizes(site: Site) -> dict[str, int]:
    return {name: len(getattr(site.data, name)) for name in ("train", "val", "test", "holdout")}


def _rare_classes(train: ImageSet, policy: Policy) -> dict[str, Any]:
    """Name the classes that no model is taught: those with too few patients (without groups: images) in train."""
    counts = zip(train.classes, train.patient_counts(), strict=True)
    return {
        "min_class_count": policy.min_class_count,
        "classes_left_out": [name for name, count in counts if count < policy.min_class_count],
    }


def _studies(file: SiteFile) -> dict[str, Any]:
    """Return what the site file says of the studies that may run."""
    rules, records = file.studies, Path(file.records)
    limits = {"modules": rules.modules, "hours": rules.hours, "gigabytes": rules.gigabytes}
    if rules.closed(records):
        return {"approved": sorted(rules.all_approved(records))} | limits
    return {"bounds": BOUNDS | rules.bounds} | limits


def _spent(file: SiteFile) -> dict[str, Any]:
    """Return what of the budgets of all studies is spent."""
    policy, before = file.policy, Ledger(Path(file.records)).entries()
    return {
        "images": images_released(before),
        "max_images": policy.max_images,
        "epsilon": epsilon_spent(before, policy.privacy.delta),
        "max_epsilon": policy.privacy.epsilon,
    }


def may_leave(file: SiteFile) -> list[str]:
    """Return in plain words what a site's policy lets leave."""
    policy = file.policy
    if policy.privacy.required:
        return [_guaranteed(policy), "this site's card, which does not tell whether its images changed"]
    lines = [MAY_LEAVE[kind].format(max_images=policy.max_images) for kind in policy.allow]
    lines.append("this site's card: " + ("with" if policy.exact_counts else "without") + " exact class counts")
    if "release" in policy.allow:
        others = "asks it not to pass it on" if policy.recipients == "server" else "lets it pass it to the other sites"
        lines.append(f"a release goes to the server, and this site {others}")
        if not policy.exact_counts:
            lines.append(
                "a release must have recycle.balance=balanced and no recycle.tune_balances in its study: class "
                "proportions may not leave"
            )
        lines.append(f"of studies with privacy=dp: {_guaranteed(policy)}")
    return lines


def _guaranteed(policy: Policy) -> str:
    budget = policy.privacy
    return (
        f"differentially private synthetic images: at most epsilon {budget.epsilon:g} at delta {budget.delta:g} "
        "of all studies together, for one patient (without groups: image) of the training split"
    )


def _card(site: Site) -> dict[str, Any]:
    return site_card(site) | {"data": "64 hex digits, keyed by a secret of this site, that change when its images do"}
