"""What a file of pictures gives: frames, or the reason why it gives none."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Larger pictures are reduced as soon as they are read; unpacked they may take so many bytes, of which there are then
# up to three copies.
MOST_PIXELS, MOST_BYTES, MOST_FRAMES = 64_000_000, 600_000_000, 10_000
# No format packs more pixels into a byte: a header that promises more is an error, whatever follows it.
PIXELS_A_BYTE, SMALL = 1_100, 1_000_000
LONGEST_REASON, MOST_FILE_BYTES = 200, 2_000_000_000


class UnreadableError(Exception):
    """One file cannot be taken; the text is the reason, in one line that does not name the file.

    Attributes:
        passing: the system failed and not the file, so that another try may go better.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def is_passing(error: Exception) -> bool:
    """Whether the system or its memory failed; that a file is not there is what was found, and so is damage."""
    # Decoders raise OSError for damage, too, but without a number of the system's.
    of_system = isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError)
    return of_system or isinstance(error, MemoryError)


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        pixels: uint8 ``[H, W]`` (grey) or ``[H, W, 3]``.
        top: the greatest value, of 65535, where 16 bits became 8 by the type's own range; else None.
        plain: it had 8 bits, which no range concerns.
    """

    pixels: NDArray[np.uint8]
    top: int | None = None
    plain: bool = False


@dataclass(frozen=True)
class Pictures:
    """What was taken of one file.

    Attributes:
        frames: at least one.
        patient: what a DICOM header calls the patient, as 32 bytes that tell nothing (see :mod:`dicom`); None without.
        further: how many frames of the file were not taken.
    """

    frames: list[Frame]
    patient: bytes | None = None
    further: int = 0


def check_file(file: Path) -> None:
    """Raise :class:`UnreadableError` for what is not there, cannot be opened, is no plain file, or fills the memory."""
    try:
        found = file.stat()
        if stat.S_ISREG(found.st_mode):
            file.open("rb").close()
    except OSError as error:
        raise UnreadableError(error.strerror or "cannot be opened", passing=is_passing(error)) from None
    except ValueError:
        raise UnreadableError("no name that a file can have") from None
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("no plain file")
    if found.st_size > MOST_FILE_BYTES:
        raise UnreadableError(f"{found.st_size:,} bytes, more than {MOST_FILE_BYTES:,}")


def check_pixels(width: int, height: int, file_bytes: int) -> None:
    """Raise :class:`UnreadableError` for a size that no file of so many bytes can hold."""
    if width * height > PIXELS_A_BYTE * file_bytes + SMALL:
        raise UnreadableError(f"{width} x {height} pixels, more than can be in {file_bytes} bytes")
