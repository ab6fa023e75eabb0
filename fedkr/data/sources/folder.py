"""A folder of images with one sub-folder a class, under folders ``train``, ``val`` and ``test`` or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedkr.config import DataConfig, nearest
from fedkr.data.decoding import source_of
from fedkr.data.listing import (
    HIDDEN,
    SPLITS,
    Entry,
    Listing,
    check_lookalikes,
    passed_over,
    same_text,
    unlistable,
    walk,
)
from fedkr.data.pictures import dicom, image_file
from fedkr.data.registry import Source
from fedkr.disk import from_home
from fedkr.errors import UserError


def load(config: DataConfig, cache: Path | None = None) -> Source:
    """Return the images under ``config.path``; :mod:`fedkr.data.pictures` says what becomes of which format.

    Classes are ``config.classes`` in that order (a class without a sub-folder has no images here), else the names of
    the sub-folders in alphabetical order. Folders inside a class's folder are walked; with ``data.patients=folder``
    each of them is one patient. Folders ``train``, ``val`` and ``test`` are the official splits; without ``test`` a
    share is set apart (``config.test_fraction``). Images stay grey if all of them are.

    Args:
        config: the dataset.
        cache: a folder for the decoded images, of this account alone; None keeps none.

    Raises:
        UserError: a missing folder, fewer than two classes, too many unreadable images, mixed sizes without a size.
    """
    return source_of(listing, config, cache)


def listing(config: DataConfig) -> Listing:
    """Return the files under ``config.path``; raise :class:`UserError` as :func:`load` does."""
    if not config.path:
        raise UserError("data.path='': name the folder that holds one sub-folder a class")
    root = from_home(Path(config.path))
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; data.path must name a folder with one sub-folder a class")
    parts = _split_folders(root, config.classes)
    found = {part: _class_files(folder) for part, folder in parts.items()}
    classes = _classes(root, found, config.classes)
    entries = [
        Entry(file, file.relative_to(root).as_posix(), label, part, _patient(file.relative_to(folder), config.patients))
        for part in ("", "train", "val", "test")
        for label, name in enumerate(classes)
        for folder, files in found.get(part, {}).get(name, [])
        for file in files
        if is_image(file)
    ]
    if not entries:
        raise UserError(
            f"{root}: no images ({', '.join(image_file.SUFFIXES)} or DICOM) in its sub-folders; put them there"
        )
    return Listing(str(root), classes, entries, warnings=_warnings(root, parts, found, entries))


def is_image(file: Path) -> bool:
    """Whether a file is one of the kinds that are read, by the end of its name or, for DICOM, by how it begins."""
    suffix = file.suffix.lower()
    return suffix in image_file.SUFFIXES or suffix in dicom.SUFFIXES or dicom.is_dicom(file)


ClassFiles = dict[str, list[tuple[Path, list[Path]]]]


def _split_folders(root: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each official split; the root alone, under an empty name, where there are none."""
    folders = _folders(root)
    known = [folder for folder in folders if folder.name.lower() in SPLITS]
    named = {same_text(name) for name in wanted}
    splits = {SPLITS[folder.name.lower()]: folder for folder in known}
    if any(same_text(folder.name) in named for folder in known):
        return {"": root}
    within = [folder for folder in known if _folders(folder)]
    # A single one without folders in it is a class, as trains are; of two nobody knows.
    if not within and len(splits) < 2:
        return {"": root}
    if "train" not in splits or len(known) < 2 or len(within) < len(folders) or len(splits) < len(known):
        names = ", ".join(sorted(folder.name for folder in folders))
        raise UserError(
            f"{root}: has folders of official splits beside others ({names}); leave train, val and test, one each, "
            "with a sub-folder a class in each, or name the classes in data.classes"
        )
    return splits


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(HIDDEN)]
    except OSError as error:
        raise unlistable(error) from None


def _class_files(part: Path) -> ClassFiles:
    """Return all files of each class by its name, with the folder that they are in (two, if both spell one name)."""
    found: ClassFiles = {}
    for folder in _folders(part):
        found.setdefault(same_text(folder.name), []).append((folder, sorted(walk(folder))))
    return found


def _classes(root: Path, found: dict[str, ClassFiles], wanted: Sequence[str]) -> tuple[str, ...]:
    names = sorted({name for classes in found.values() for name in classes})
    known = tuple(same_text(name) for name in wanted)
    for name in names:
        folders = [folder for classes in found.values() for folder in classes.get(name, [])]
        if known and name not in known:
            raise UserError(f"{folders[0][0]}: not in data.classes{nearest(name, known)}")
        if not known and not any(is_image(file) for _, files in folders for file in files):
            raise UserError(f"{folders[0][0]}: a class without images; add some, remove it, or name data.classes")
    if not known:
        check_lookalikes(str(root), names)
    classes = known or tuple(names)
    if len(classes) < 2:
        raise UserError(f"{root}: {len(classes)} sub-folder(s); at least two classes are needed, one sub-folder each")
    return classes


def _patient(within: Path, rule: str) -> str:
    """Return the first folder inside a class's folder, by which ``data.patients=folder`` tells patients."""
    return same_text(within.parts[0]) if rule == "folder" and len(within.parts) > 1 else ""


def _warnings(root: Path, parts: dict[str, Path], found: dict[str, ClassFiles], entries: Sequence[Entry]) -> list[str]:
    taken = {entry.file for entry in entries}
    every = [
        file for classes in found.values() for folders in classes.values() for _, files in folders for file in files
    ]
    loose = [
        file
        for folder in {root, *parts.values()}
        for file in folder.iterdir()
        if not file.name.startswith(".") and is_image(file) and file.is_file()
    ]
    lines = passed_over(file for file in every if file not in taken)
    if loose:
        lines.append(f"{len(loose)} image(s) lie beside the classes' folders, in none of them, and are not taken")
    inner = {file.parts[len(root.parts) + 1].lower() for file in taken if len(file.parts) > len(root.parts) + 2}
    if "" in parts and len(inner & set(SPLITS)) > 1:
        lines.append("folders train and test inside a class's folder are no official splits: their images are one pool")
    return lines
