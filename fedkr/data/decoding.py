"""From a list of files to a dataset: each file is decoded by itself, and a broken one costs itself only."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DataConfig
from fedkr.data.decoded import Decoded, drop_others, kept
from fedkr.data.images import ImageSet
from fedkr.data.listing import Entry, LeftOut, Listing, shown, write_left_out
from fedkr.data.pictures import dicom
from fedkr.data.pictures.apart import FrameDecoder
from fedkr.data.pictures.dicom import read_dicom
from fedkr.data.pictures.frame import Frame, Pictures, UnreadableError
from fedkr.data.pictures.image_file import SUFFIXES, read_image_file
from fedkr.data.pictures.levels import Brightest
from fedkr.data.registry import Source, set_apart_test
from fedkr.disk import from_home
from fedkr.errors import UserError

MOST_NAMED = 50
# Options of a dataset that decide nothing about the pixels of one file.
NOT_OF_PIXELS = (
    *("name", "root", "path", "download", "classes", "flip", "limit", "test_fraction", "least_usable"),
    *("patients", "remove_leaks", "near_leaks"),
)


Lister = Callable[[DataConfig], Listing]


def listed(lister: Lister, config: DataConfig, cache: Path | None) -> Listing:
    """Return what ``lister`` lists. If it refuses what is there, nothing that was decoded of it stays in ``cache``.

    Images may have been taken away until no dataset is left. Of a folder or table that is not there, as of a share that
    is away, all stays.
    """
    try:
        return lister(config)
    except UserError:
        if cache is not None and os.path.exists(from_home(Path(config.path))):  # noqa: PTH110 - never raises OSError
            drop_others(cache)
        raise


def source_of(lister: Lister, config: DataConfig, cache: Path | None) -> Source:
    """Decode the files that ``lister`` lists and return the dataset; ``cache`` is a folder that keeps what was decoded.

    Raises:
        UserError: as ``lister`` does; fewer readable files than ``config.least_usable``, images of several sizes
            without ``config.size``, or values of more than 8 bits that ``config`` maps to almost nothing.
    """
    listing = listed(lister, config, cache)
    stamp = listing.stamp()

    def decode_as_stamped() -> Decoded:
        found = decode(listing, config)
        # A share that went away meanwhile, or files that changed, are not what the stamp stands for.
        return found if listing.stamp() == stamp else dataclasses.replace(found, passing=True)

    found = kept(cache, dependencies(config, stamp), decode_as_stamped)
    left_out = [*listing.left_out, *found.left_out]
    if cache is not None:
        write_left_out(cache, left_out)
    total = len(listing.entries) + len(listing.left_out)
    _check_usable(listing.where, total, left_out, config.least_usable)
    source = _split(listing, found, config)
    warnings = [*listing.warnings, *_left_out_lines(total, left_out), *found.warnings, *source.warnings]
    return dataclasses.replace(source, warnings=warnings, left_out=tuple(left_out))


def dependencies(config: DataConfig, stamp: str) -> dict[str, Any]:
    """Return all that decoded images depend on: the files, and the options that concern pixels."""
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_OF_PIXELS}
    return options | {"files": stamp}


def decode(listing: Listing, config: DataConfig) -> Decoded:
    """Read each file of a list; raise :class:`UserError` as :func:`source_of` does, for all but too few files."""
    with FrameDecoder() as decoder:
        work = _Decoding(listing.where, config, decoder)
        for index, entry in enumerate(listing.entries):
            work.add(index, entry)
    return work.result()


class _Decoding:
    """Frames, one file after the other, and what is to be said of them."""

    def __init__(self, where: str, config: DataConfig, decoder: FrameDecoder) -> None:
        self.where, self.config, self.decoder = where, config, decoder
        self.pixels: list[NDArray[np.uint8] | None] = []
        self.entry: list[int] = []
        self.patient: list[int] = []
        self.patients: dict[bytes, int] = {}
        self.left_out: list[LeftOut] = []
        self.counts: Counter[str] = Counter()
        self.brightest = Brightest()
        self.passing = False

    def add(self, index: int, entry: Entry) -> None:
        """Read a file, or note why it cannot be read."""
        try:
            found = _read(entry.file, self.config, self.decoder)
        except UnreadableError as error:
            self.left_out.append(LeftOut(shown(entry.name), str(error)))
            self.passing |= error.passing
            return
        self.counts["frames"] += bool(found.further)
        number = -1 if found.patient is None else self.patients.setdefault(found.patient, len(self.patients))
        for frame in found.frames:
            self._add_frame(frame, entry)
            self.entry.append(index)
            self.patient.append(number)

    def _add_frame(self, frame: Frame, entry: Entry) -> None:
        first = self.pixels[0].shape if self.pixels and self.pixels[0] is not None else frame.pixels.shape
        height, width = frame.pixels.shape[:2]
        if (height, width) != first[:2] or height != width:
            raise UserError(
                f"{entry.file}: {width} x {height} pixels, where all must be square and of one size; "
                "set data.size to crop and resize, as in data.size=64"
            )
        self.pixels.append(frame.pixels)
        self.counts["grey" if frame.pixels.ndim == 2 else "colour"] += 1
        self.counts["plain"] += frame.plain and bool(self.config.range or self.config.scale == "image")
        self.brightest.add(frame.top)

    def result(self) -> Decoded:
        """Return all frames as one array."""
        self.brightest.check(self.where)
        entry, patient = np.array(self.entry, dtype=np.int64), np.array(self.patient, dtype=np.int64)
        return Decoded(self._stack(), entry, patient, self.left_out, self._warnings(), self.passing)

    def _stack(self) -> NDArray[np.uint8]:
        if not self.pixels or self.pixels[0] is None:
            return np.zeros((0, 1, 1, 1), np.uint8)
        side = self.pixels[0].shape[:2]
        images = np.empty((len(self.pixels), *side, 3 if self.counts["colour"] else 1), np.uint8)
        for index, pixels in enumerate(self.pixels):
            if pixels is not None:
                images[index] = pixels[..., None] if pixels.ndim == 2 else pixels
            self.pixels[index] = None  # of all images never two copies
        return images

    def _warnings(self) -> list[str]:
        lines = []
        if self.counts["frames"]:
            lines.append(
                f"{self.counts['frames']} file(s) hold several pages or frames, of which the first was taken; "
                "data.frames=all takes all of them"
            )
        if self.counts["plain"]:
            lines.append(f"{self.counts['plain']} image(s) have 8 bits, which data.range and data.scale do not change")
        if self.counts["grey"] and self.counts["colour"]:
            lines.append(
                f"{self.counts['grey']} grey image(s) were made colour as {self.counts['colour']} others are; "
                "data.channels=1 makes all grey"
            )
        return lines


def _read(file: Path, config: DataConfig, decoder: FrameDecoder) -> Pictures:
    if file.suffix.lower() in dicom.SUFFIXES or (file.suffix.lower() not in SUFFIXES and dicom.is_dicom(file)):
        return read_dicom(file, config, decoder)
    return read_image_file(file, config)


def _split(listing: Listing, found: Decoded, config: DataConfig) -> Source:
    """Return pool, val and test of decoded images, as the list says or with a share set apart."""
    entries = [listing.entries[index] for index in found.entry]
    groups, warnings = _groups(entries, found, config)
    labels = np.array([entry.label for entry in entries], dtype=np.int64)
    everything = ImageSet(found.images, labels, listing.classes, groups)
    splits = np.array([entry.split for entry in entries])
    test, val = np.flatnonzero(splits == "test"), np.flatnonzero(splits == "val")
    if not len(test) and any(entry.split == "test" for entry in listing.entries):
        raise UserError(f"{listing.where}: no readable image is in test; add some, or take the split away")
    if not len(test):
        return dataclasses.replace(set_apart_test(everything, config.test_fraction, listing.where), warnings=warnings)
    rest = np.flatnonzero(~np.isin(splits, ("test", "val")))
    if not len(rest):
        raise UserError(f"{listing.where}: no readable image is in train; add some")
    pool = everything.subset(np.concatenate([rest, val]))
    return Source(pool, everything.subset(test), warnings, val=len(val))


def _groups(entries: Sequence[Entry], found: Decoded, config: DataConfig) -> tuple[NDArray[np.int64] | None, list[str]]:
    """Return numbers of the images' patients in the order of the files, None where nothing names any.

    Frames of one file are never divided, nor a header's patient of whose files a table names only some.
    """
    files, numbered = found.entry.tolist(), found.patient.tolist()
    named = {n: entry.patient for entry, n in zip(entries, numbered, strict=True) if entry.patient and n >= 0}
    keys = [_patient(entry, number, named, config) for entry, number in zip(entries, numbered, strict=True)]
    unnamed = {file for file, key in zip(files, keys, strict=True) if key is None}
    if len(set(files)) == len(files) and all(key is None for key in keys):
        return None, []
    numbers: dict[Any, int] = {}
    units = [("file", file) if key is None else key for file, key in zip(files, keys, strict=True)]
    groups = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)
    if not 0 < len(unnamed) < len(set(files)):
        return groups, []
    return groups, [f"{len(unnamed)} file(s) name no patient, and each counts as a patient of its own"]


def _patient(entry: Entry, number: int, named: Mapping[int, str], config: DataConfig) -> str | int | None:
    if config.patients == "none":
        return None
    if entry.patient:
        return entry.patient
    return named.get(number, number) if config.patients == "auto" and number >= 0 else None


def _check_usable(where: str, total: int, left_out: Sequence[LeftOut], least: float) -> None:
    usable = total - len(left_out)
    if usable and usable >= least * total:
        return
    listed = "; ".join(f"{item.name} ({item.reason})" for item in left_out[:MOST_NAMED])
    more = f"; and {len(left_out) - MOST_NAMED} more" if len(left_out) > MOST_NAMED else ""
    raise UserError(
        f"{where}: {len(left_out)} of {total} files cannot be read, so fewer than data.least_usable={least:g} can: "
        f"{listed}{more}; repair or remove them"
    )


def _left_out_lines(total: int, left_out: Sequence[LeftOut]) -> list[str]:
    if not left_out:
        return []
    reasons = Counter(item.reason for item in left_out).most_common(3)
    told = "; ".join(f"{count}: {reason}" for reason, count in reasons)
    return [f"{len(left_out)} of {total} files cannot be read and are left out ({told})"]
