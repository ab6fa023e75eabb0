"""Which files hold a dataset's images, with their labels, patients and splits, before any of them is opened."""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fedkr.config import nearest
from fedkr.disk import write_atomic
from fedkr.documents import MOST_CLASSES
from fedkr.errors import UserError, one_line

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LEFT_OUT_FILE = "left-out.txt"
# What systems and other programs put beside images.
NO_IMAGES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "dicomdir"}
HIDDEN = (".", "__", "@")
MOST_KINDS = 6
# Endings of formats and no others: what follows a name's last point may be a patient's name.
TOLD_ENDINGS = {
    *(".gif", ".svg", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".psd", ".raw", ".dng", ".pdf", ".eps"),
    *(".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".md", ".log", ".doc", ".docx", ".xls", ".xlsx", ".yaml"),
    *(".nii", ".nrrd", ".mha", ".mhd", ".hdr", ".svs", ".ndpi", ".npy", ".npz", ".h5", ".mat", ".pt", ".pkl"),
    *(".zip", ".gz", ".tar", ".tgz", ".7z", ".rar", ".mp4", ".avi", ".mov", ".mpg", ".db", ".ini", ".bak", ".tmp"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm"),
}


class LeftOut(NamedTuple):
    """A file or row that gave no image, and why. Names stay on this machine: they may be patients'."""

    name: str
    reason: str


def write_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Write a line for each file that was left out into ``folder``; a disk that refuses only costs the list."""
    path = folder / LEFT_OUT_FILE
    if left_out or path.exists():
        text = "".join(f"{item.name}: {item.reason}\n" for item in left_out)
        with contextlib.suppress(UserError):
            write_atomic(path, text.encode(errors="backslashreplace"), mode=0o600)


@dataclass(frozen=True)
class Entry:
    """One file of images.

    Attributes:
        file: where it lies.
        name: as messages call it.
        label: index of its class.
        split: ``train``, ``val`` or ``test``; empty where the dataset has no official splits.
        patient: what its folder or its row calls the patient; empty for nothing.
    """

    file: Path
    name: str
    label: int
    split: str = ""
    patient: str = ""

    def stamp(self) -> tuple[str, int, int, int]:
        """Return what changes when the file does: name, bytes, and when content and inode were last changed (ns)."""
        try:
            found = self.file.stat()
        except (OSError, ValueError):
            return self.name, -1, 0, 0
        return self.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class Listing:
    """What a dataset of single files consists of.

    Attributes:
        where: the folder or table, as messages name it.
        classes: the class names.
        entries: the files, in the order of their images.
        left_out: rows that name no usable file.
        warnings: one line each, without names of files or patients.
    """

    where: str
    classes: tuple[str, ...]
    entries: list[Entry]
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def stamp(self) -> str:
        """Return a digest that changes when files come, go, change or move to another class, split or patient."""
        rows = [(entry.stamp(), entry.label, entry.split, entry.patient) for entry in self.entries]
        return hashlib.sha256(repr((self.classes, self.left_out, rows)).encode(errors="surrogatepass")).hexdigest()


def same_text(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), which file systems and keyboards do not agree on."""
    return unicodedata.normalize("NFC", name)


def shown(name: str | Path) -> str:
    """Return a file's name as a line of text can hold it."""
    return one_line(str(name).encode(errors="backslashreplace").decode())


def check_lookalikes(where: str, names: Iterable[str]) -> None:
    """Raise :class:`UserError` for two class names that differ only by case or spaces."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            raise UserError(
                f"{where}: classes {other!r} and {name!r} differ only by case or spaces; make them one, or name both "
                "in data.classes"
            )


def known_classes(where: str, found: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return ``wanted``, which must hold all ``found``, else ``found``.

    Raises:
        UserError: a class that is not wanted, lookalikes, or more classes than a study can have.
    """
    names = tuple(same_text(name) for name in wanted)
    for name in found:
        if names and name not in names:
            raise UserError(f"{where}: class {shown(name)!r} is not in data.classes{nearest(name, names)}")
    if not names:
        check_lookalikes(where, found)
    if len(names or found) > MOST_CLASSES:
        raise UserError(f"{where}: {len(names or found)} classes; a study has at most {MOST_CLASSES}")
    return names or tuple(found)


def passed_over(files: Iterable[Path]) -> list[str]:
    """Return one line that counts files by the ends of their names, none where there are no files."""
    kinds = Counter(_kind(file) for file in files)
    if not kinds:
        return []
    common = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    counts = [f"{count} {kind}" for kind, count in common[:MOST_KINDS]]
    rest = len(kinds) - len(counts)
    more = f" and {rest} more kinds" if rest else ""
    return [f"{kinds.total()} file(s) were passed over, of no kind that is read: {', '.join(counts)}{more}"]


def _kind(file: Path) -> str:
    """Return the end of a name if it is one of a format, which tells nothing of whose file it is."""
    suffix = file.suffix.lower()
    return suffix if suffix in TOLD_ENDINGS else "of no known ending"


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its folders, links followed but not in circles."""

    def refuse(error: OSError) -> None:
        raise unlistable(error)

    above: dict[str, set[tuple[int, int]]] = {}
    for at, inner, files in os.walk(folder, onerror=refuse, followlinks=True):
        about = Path(at).stat()
        key, parents = (about.st_dev, about.st_ino), above.pop(at, set())
        if key in parents:
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(HIDDEN)]
        above.update({str(Path(at) / name): parents | {key} for name in inner})
        yield from (Path(at) / name for name in files if not name.startswith(".") and name.lower() not in NO_IMAGES)


def unlistable(error: OSError) -> UserError:
    """Return what to raise where a folder's files cannot be listed."""
    return UserError(f"{shown(error.filename)}: its files cannot be listed ({error.strerror}); make it readable")
