"""A table of images, CSV or Parquet: columns ``path`` and ``label``, and where known ``patient`` and ``split``."""

from __future__ import annotations

import csv
import io
import os
import stat as stat_module
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedkr.config import DataConfig, nearest
from fedkr.data.decoding import source_of
from fedkr.data.listing import SPLITS, Entry, LeftOut, Listing, known_classes, same_text, shown
from fedkr.data.pictures.frame import LONGEST_REASON
from fedkr.data.registry import Source
from fedkr.data.sources.labels import MISSING
from fedkr.disk import from_home
from fedkr.errors import UserError, one_line

NEEDED, KNOWN = ("path", "label"), ("path", "label", "patient", "split")
DELIMITERS = (",", ";", "\t")
LONGEST_NUMBER = 20
# A table of more is no list of one hospital's images.
MOST_BYTES, MOST_ROWS = 500_000_000, 10_000_000

Row = tuple[int, dict[str, str]]


def load(config: DataConfig, cache: Path | None = None) -> Source:
    """Return the images that the table at ``config.path`` lists; paths in it start at the table's own folder.

    Labels are texts: classes are ``config.classes``, else the labels in order, as numbers if all are. Rows of one
    ``patient`` are never divided. ``split`` is train, val or test; without any test row a share is set apart
    (``config.test_fraction``). A row without a path or label, and one whose file cannot be read, is left out and told.

    Args:
        config: the dataset.
        cache: as for :func:`fedkr.data.sources.folder.load`.

    Raises:
        UserError: a table that is missing, no CSV or Parquet, or lacks a column; a file listed twice; an unknown split
            or class; too many rows that give no image.
    """
    return source_of(listing, config, cache)


def listing(config: DataConfig) -> Listing:
    """Return the files that a table lists; raise :class:`UserError` as :func:`load` does."""
    if not config.path:
        raise UserError("data.path='': name the table (.csv or .parquet with columns path and label) to read")
    if config.patients == "folder":
        raise UserError("data.patients=folder: a table names patients in its column patient; use data.patients=auto")
    path = from_home(Path(config.path))
    read = _parquet_rows if path.suffix.lower() in (".parquet", ".pq") else _csv_rows
    known = {same_text(name) for name in config.classes}
    rows = [(number, _without_missing(row, known)) for number, row in read(path)]
    left_out = [LeftOut(f"row {number}", f"no {missing}") for number, row in rows if (missing := _missing(row))]
    whole = [(number, row) for number, row in rows if not _missing(row)]
    if not whole:
        raise UserError(f"{path}: no row has both path and label")
    classes = known_classes(str(path), _labels({row["label"] for _, row in whole}), config.classes)
    if len(classes) < 2:
        raise UserError(f"{path}: only one class; name the study's classes, as in data.classes=[healthy,ill]")
    _check_listed_once(path, whole)
    index = {name: label for label, name in enumerate(classes)}
    entries = [_entry(path, number, row, index[row["label"]]) for number, row in whole]
    return Listing(str(path), classes, entries, left_out)


def _without_missing(row: dict[str, str], known: Collection[str]) -> dict[str, str]:
    """Return a row with nothing for what stands for a missing label or patient, unless it is a known class's name."""
    return row | {
        name: ""
        for name in ("label", "patient")
        if row.get(name) in MISSING and not (name == "label" and row[name] in known)
    }


def _missing(row: dict[str, str]) -> str:
    return next((name for name in NEEDED if not row.get(name)), "")


def _labels(found: set[str]) -> list[str]:
    whole = all(name.isascii() and name.isdigit() and len(name) < LONGEST_NUMBER for name in found)
    return sorted(found, key=lambda name: (int(name), name)) if whole else sorted(found)


def _entry(path: Path, number: int, row: dict[str, str], label: int) -> Entry:
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise UserError(f"{path}: row {number}: split {shown(split)!r} is none{nearest(split, SPLITS)}")
    file = path.parent / row["path"]
    return Entry(file, row["path"], label, SPLITS.get(split, ""), same_text(row.get("patient", "")))


def _check_listed_once(path: Path, rows: Sequence[Row]) -> None:
    seen: dict[str, int] = {}
    for number, row in rows:
        file = os.path.normpath(path.parent / row["path"])
        if (other := seen.setdefault(file, number)) != number:
            raise UserError(f"{path}: rows {other} and {number} list the same file ({shown(row['path'])}); keep one")


def _csv_rows(path: Path) -> Iterator[Row]:
    """Yield number and cells of each row, numbered as a spreadsheet does: the header is row 1."""
    text = _text(path)
    header = text.partition("\n")[0]
    try:
        names = {
            mark: [name.strip().lower() for name in next(csv.reader([header], delimiter=mark))] for mark in DELIMITERS
        }
        mark = next((mark for mark in DELIMITERS if set(NEEDED) <= set(names[mark])), DELIMITERS[0])
        columns = _columns(path, names[mark])
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        next(reader)
        for number, cells in enumerate(reader, start=2):
            if len(cells) not in (0, len(names[mark])):
                raise UserError(
                    f"{path}: row {number} has {len(cells)} cells, the header {len(names[mark])}; repair it"
                )
            if cells:
                yield number, {name: same_cell(name, cells[at]) for name, at in columns.items()}
    except (csv.Error, StopIteration, RuntimeError) as error:
        raise UserError(f"{path}: not readable as CSV ({one_line(str(error), LONGEST_REASON)}); repair it") from None


def same_cell(column: str, cell: str) -> str:
    """Return a cell without spaces around it; a label in Unicode's composed form, a path as it is written."""
    return same_text(cell.strip()) if column == "label" else cell.strip()


def _text(path: Path) -> str:
    try:
        _check_file(path)
        # Spreadsheets put a mark of the encoding at the beginning.
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name an existing .csv or .parquet file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not in UTF-8; save it again as CSV in UTF-8") from None


def _check_file(path: Path) -> None:
    found = path.stat()
    if not stat_module.S_ISREG(found.st_mode):
        raise UserError(f"{path}: no file; name an existing .csv or .parquet file")
    if found.st_size > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES:,} bytes; a table of images is not")


def _columns(path: Path, names: Sequence[str]) -> dict[str, int]:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        found = one_line(", ".join(names), LONGEST_REASON)
        raise UserError(f"{path}: has no column {missing[0]!r} (found: {found}); its first row must name its columns")
    double = [name for name in KNOWN if names.count(name) > 1]
    if double:
        raise UserError(f"{path}: has two columns {double[0]!r}; keep one")
    return {name: names.index(name) for name in KNOWN if name in names}


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: Parquet is read by an optional package: pip install pyarrow; or save it as CSV"
        ) from None
    try:
        _check_file(path)
        with parquet.ParquetFile(path) as file:
            names = [name.strip().lower() for name in file.schema_arrow.names]
            count = file.metadata.num_rows
            columns = _columns(path, names)
            if count > MOST_ROWS:
                raise UserError(f"{path}: {count:,} rows, more than {MOST_ROWS:,}")
            wanted = {name: file.schema_arrow.names[at] for name, at in columns.items()}
            table = file.read(columns=list(wanted.values()))
    except UserError:
        raise
    except Exception as error:  # the parser of a damaged file raises whatever its bytes lead it to
        reason = one_line(str(error), LONGEST_REASON) or type(error).__name__
        raise UserError(f"{path}: not readable as Parquet ({reason}); save it again") from None
    cells = {name: table.column(stored).to_pylist() for name, stored in wanted.items()}
    for at in range(count):
        yield at + 1, {name: same_cell(name, _as_text(values[at])) for name, values in cells.items()}


def _as_text(value: Any) -> str:
    """Return a cell as CSV would have it: nothing for missing, whole numbers without a fraction."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
