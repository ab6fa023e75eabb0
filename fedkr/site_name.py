"""What a site may be called: its name becomes part of file names, tables, figures and pages."""

from __future__ import annotations

import unicodedata

from fedkr.errors import UserError

LONGEST = 64
# A file's name has at most 255, what stands beside a site's name in it included.
MOST_BYTES = 120
# Rows over all sites are called so; a node of Flower's that has no name yet goes by its number.
ALL_SITES = "all sites"


def check_site_name(name: object, where: str) -> str:
    """Return the name of a site; raise :class:`UserError`, which begins with ``where``, for any other value.

    A name is printable, in Unicode's composed form (NFC), has at most 64 characters (120 bytes as UTF-8) and no slash,
    begins with no dot, and is not what rows over all sites are called.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST:
        raise UserError(f"{where}: {name!r}: a site's name is text of 1 to {LONGEST} characters")
    if not name.isprintable() or name != name.strip() or name != unicodedata.normalize("NFC", name):
        raise UserError(f"{where}: {name!r}: a site's name is printable, in Unicode's NFC form, without outer spaces")
    if len(name.encode()) > MOST_BYTES:
        raise UserError(
            f"{where}: {name!r}: a site's name has at most {MOST_BYTES} bytes as UTF-8, it is part of files'"
        )
    if name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(f"{where}: {name!r}: a site's name must not begin with a dot or hold a slash")
    if name.casefold() == ALL_SITES:
        raise UserError(f"{where}: {name!r}: this is what rows over all sites are called")
    return name
