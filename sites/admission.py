"""Which work a node takes on: what the site file allows of a message, before any data are opened and when it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedkr.config import parse_study
from fedkr.data.listing import LEFT_OUT_FILE
from fedkr.disk import write_json
from fedkr.errors import UserError, one_line
from fedkr.fingerprint import array_digest
from fedkr.learning.public_features import check_installed
from sites.contestants import refuse_simulated
from sites.policy import SIMULATED, Policy, check_request
from sites.private_files import private_files
from sites.records import read_records
from sites.studies import keep_asked
from sites.workspace import DECODED_FOLDER, SiteFile, read_site_file, site_source

logger = logging.getLogger(__name__)
SPLIT_FILE = "split.json"


@contextlib.contextmanager
def workplace(node_config: Mapping[str, Any]) -> Iterator[type[BaseException]]:
    """Set up a node for one message; yield the kind of exceptions that must not pass.

    A hospital's files are for one account alone, and nothing ends its process but the message's end. A simulation may
    run in the process of its command, which ctrl-C ends.
    """
    if "site-file" not in node_config:
        yield Exception
        return
    # A site file that cannot be read has no folders to close, and stops the work where the reason can be kept.
    folders: list[Path] = []
    with contextlib.suppress(Exception):
        file = read_site_file(Path(str(node_config["site-file"])))
        folders = [Path(file.workspace), Path(file.records)]
    with private_files(*folders):
        yield BaseException


def permit(node_config: Mapping[str, Any], message_type: str, study_json: str) -> tuple[Policy, SiteFile | None]:
    """Refuse what this node's policy and rules do not allow, before any data are opened.

    Return the policy and the site file as they are now; no file in a simulation.
    """
    if "site-file" not in node_config:
        study = parse_study(study_json)
        check_request(SIMULATED, message_type, study)
        check_installed(study.audit)
        return SIMULATED, None
    file = read_site_file(Path(str(node_config["site-file"])))
    study = parse_study(study_json)
    check_request(file.policy, message_type, study)
    refuse_simulated(study)
    try:
        file.studies.refuse(study, Path(file.records))
        file.split.allow(study)
    except UserError:
        keep_asked(Path(file.records), study)
        raise
    # Last: what a site does not allow is refused as such, and waits for approval, whatever is installed.
    check_installed(study.audit)
    return file.policy, file


def keep_split(file: SiteFile) -> None:
    """Write down how a site's images are split; raise :class:`UserError` for those that were split otherwise before."""
    path, kept, now = check_split(file)
    if not now.items() <= kept.items():
        write_json(path, kept | now)


def tell_of_data(file: SiteFile) -> None:
    """Log what is to be known of a site's images, such as files that gave none; their names are in its workspace."""
    source = site_source(file)
    for line in source.warnings:
        logger.warning("%s", one_line(line))
    if source.left_out:
        logger.warning("which files are left out: %s", Path(file.workspace) / DECODED_FOLDER / LEFT_OUT_FILE)


def check_split(file: SiteFile) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return the file of the splits that a site had, what is in it, and the split of its images as it is now.

    Raises:
        UserError: the site file's split, its name, or the labels or patients in the data, are not those of an earlier
            study of the same images, whose holdout would become training images.
    """
    pool = site_source(file).pool
    path, key = Path(file.records) / SPLIT_FILE, array_digest([pool.images])
    now = {"site": file.name, **dataclasses.asdict(file.split), "labels": array_digest([pool.labels])}
    now |= {"patients": None if pool.groups is None else array_digest([pool.groups])}
    del now["canary_kinds"], now["min_images"]
    kept = read_records(path)
    if kept.get(key, now) != now:
        raise UserError(
            f"{path}: these images were split by {json.dumps(kept[key])} before, now by {json.dumps(now)}; a holdout "
            "would become training images: take back the change in the site file or the data"
        )
    return path, kept, {key: now}
