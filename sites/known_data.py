"""What a site's data were when a study began here: others in their place are noticed, whatever the study asks next."""

from __future__ import annotations

import logging
from pathlib import Path

from fedkr import wire
from fedkr.config import Study
from fedkr.data.identity import what_changed
from fedkr.disk import write_json
from fedkr.errors import UserError
from sites.ledger import Ledger
from sites.records import read_records
from sites.studies import study_digest
from sites.workspace import SiteFile, site_source

logger = logging.getLogger(__name__)

DATA_FILE = "data.json"
# A server can make any number of studies: the oldest are forgotten.
MOST_STUDIES = 1_000


def keep_data(file: SiteFile, study: Study, message_type: str) -> None:
    """Write down what a hospital's data are as a study begins; hold its later messages to them.

    The server asks for a site's card as it starts, also where it goes on with a study: other data are then told in the
    site's log, and the server does anew what rests on them. Between two cards they would be in one half of the results.

    Raises:
        UserError: data other than those that the study began with, with what changed of them.
    """
    records, name, now = Path(file.records), study_digest(study), site_source(file).identity
    # Studies that begin at one time would write over each other's line.
    with Ledger(records).locked():
        _keep(records / DATA_FILE, name, now, message_type)


def _keep(path: Path, name: str, now: str, message_type: str) -> None:
    kept = read_records(path)
    if (began := kept.get(name)) == now:
        return
    if began is not None:
        changed = f"{path}: since study {name[:16]} began here, {', '.join(what_changed(str(began), now))} changed"
        if message_type != wire.DESCRIBE:
            raise UserError(f"{changed}; put the data back, or have the coordinator start the study again")
        logger.warning("%s; what rests on them is computed anew", changed)
        del kept[name]
    newest = list(kept.items())[-MOST_STUDIES + 1 :]
    write_json(path, dict(newest) | {name: now})
