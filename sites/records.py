"""The site's records: JSON objects in a folder beside the site file, which outlive every workspace."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from fedkr.disk import write_atomic
from fedkr.errors import UserError
from sites.secret import keyed

# In the workspace, whose records it belongs to.
MARKER = "records.id"


def bind(workspace: Path, records: Path) -> None:
    """Hold a workspace to the records that it was first used with: others would have a ledger that knows of nothing.

    Raises:
        UserError: the workspace was used with other records.
    """
    marker, own = workspace / MARKER, keyed(records, b"workspace").hex()[:32]
    # Nothing of another ledger's lies in a workspace that cannot be written, and the work says why it fails there.
    with contextlib.suppress(UserError, OSError):
        if not marker.exists():
            workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(marker, own.encode(), 0o600)
    known = marker.read_bytes().decode(errors="replace") if marker.is_file() else own
    if known != own:
        raise UserError(
            f"{workspace}: was used with other records than {records}, whose ledger knows nothing of it; name in "
            "`records` the folder of all studies on these images"
        )


def check_owner(*paths: Path) -> None:
    """Raise :class:`UserError` where the first of the paths that is there is another account's.

    That one could not read what this one writes.
    """
    for path in (path for path in paths if path.exists()):
        if path.stat().st_uid != os.geteuid():
            raise UserError(
                f"{path}: belongs to another account than the one that runs this command; run it as that one, as in "
                "`sudo -u ACCOUNT fedkr ...`"
            )
        return


def has_record(path: Path) -> bool:
    """Whether the site's records have a file; raise :class:`UserError` where this account may not know."""
    try:
        return path.exists()
    except PermissionError:
        raise _not_readable(path) from None


def _not_readable(path: Path) -> UserError:
    return UserError(f"{path}: this account may not read it; give it to the account that runs the site")


def read_records(path: Path) -> dict[str, object]:
    """Return a JSON object of the site's records, empty where there is none; raise :class:`UserError` for no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except PermissionError:
        raise _not_readable(path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it from a backup") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object; restore it from a backup")
    return values
