"""The site's records: JSON objects in a folder beside the site file, which outlive every workspace."""

from __future__ import annotations

import json
from pathlib import Path

from fedkr.errors import UserError


def read_records(path: Path) -> dict[str, object]:
    """Return a JSON object of the site's records, empty where there is none; raise :class:`UserError` for no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it from a backup") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object; restore it from a backup")
    return values
