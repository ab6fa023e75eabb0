"""DICOM files: pixel data as a viewer would first show them, and of the header only whose they are, as a digest.

No text of a header enters a message, a log or a file: reasons are those of this file, never pydicom's, whose messages
quote values. Decoders are those that pydicom finds installed; the extra ``fedkr[dicom]`` brings free ones for all
transfer syntaxes but JPEG Lossless, JPEG of 12 bits and video.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedkr.config import DataConfig
from fedkr.data.pictures.apart import DecoderEndedError, FrameDecoder, RefusedError
from fedkr.data.pictures.frame import (
    MOST_FRAMES,
    MOST_PIXELS,
    Frame,
    Pictures,
    UnreadableError,
    check_file,
    check_pixels,
    is_passing,
)
from fedkr.data.pictures.geometry import fitted
from fedkr.data.pictures.levels import scaled

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima")
PREFIX_AT, PREFIX = 128, b"DICM"
PREAMBLE, META_GROUP = bytes(PREFIX_AT) + PREFIX, 0x0002
# The element that says how all others are written: as those are that were deflated.
EXPLICIT = b"\x02\x00\x10\x00UI\x14\x00" + b"1.2.840.10008.1.2.1\0"
# Of an unpacked file there are up to three copies.
MOST_INFLATED = 64_000_000
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
# Drawn anew by each process and kept nowhere: the digest of a patient's id only tells, within one reading, which files
# are one patient's. Nobody, this site included, can lead it back or compare it with another's.
PATIENT_KEY = secrets.token_bytes(32)


def is_dicom(file: Path) -> bool:
    """Whether a file begins as the standard says (PS3.10, 7.1); False for one that cannot be read."""
    try:
        # A pipe would be waited for.
        if not file.is_file():
            return False
        with file.open("rb") as handle:
            return handle.read(PREFIX_AT + len(PREFIX))[PREFIX_AT:] == PREFIX
    except (OSError, ValueError):
        return False


def read_dicom(file: Path, config: DataConfig, decoder: FrameDecoder | None = None) -> Pictures:
    """Return a file's first frame, or all of them (``config.frames``), as grey levels or RGB.

    Grey values are rescaled by the modality's rule (slope and intercept, or its table), then mapped to 0..255 by
    ``config.range`` in the rescaled units; by the picture's own least and greatest value with ``config.scale=image``;
    else by the file's first window or table of values of interest. A file without one is mapped by its own least and
    greatest value, padding left aside, but for 8-bit values, which stay. MONOCHROME1 is inverted. Of colours with more
    than 8 bits the upper 8 count.

    Args:
        file: a DICOM file.
        config: the rules.
        decoder: decodes compressed frames; None for a process of this file's own, which takes long to start.

    Raises:
        UnreadableError: pydicom or a decoder is missing, or the file is damaged or holds no pictures.
    """
    with _quiet(), contextlib.ExitStack() as stack:
        dataset = _header(file)
        decoder = decoder or stack.enter_context(FrameDecoder())
        count = _frame_count(dataset)
        frames = []
        for index in range(count if config.frames == "all" else 1):
            pixels = _as_levels(stored_pixels(file, dataset, index, decoder), _View(dataset, index), config)
            frames.append(Frame(np.asarray(fitted(Image.fromarray(pixels), config), dtype=np.uint8)))
        return Pictures(frames, _patient(dataset), count - len(frames))


def stored_pixels(file: Path, dataset: Dataset, index: int, decoder: FrameDecoder) -> NDArray[Any]:
    """Return one frame's values ``[H, W]`` or ``[H, W, 3]`` as stored, YCbCr made RGB; palettes are indices.

    Raises:
        UnreadableError: no decoder for the transfer syntax is installed, or the pixel data are damaged.
    """
    from pydicom.pixels import pixel_array
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    reason = f"its pixel data cannot be decoded ({_syntax(dataset)})"
    # Of several decoders of RLE one ends the process where a file is damaged.
    plugin = "pydicom" if syntax == RLELossless else ""
    try:
        if syntax.is_private or not syntax.is_encapsulated:
            return pixel_array(dataset, index=index)
        return decoder.frame(file, index, plugin)
    except DecoderEndedError as error:
        ended = "was ended by the system" if error.passing else "ended, or took longer than such a frame may"
        raise UnreadableError(f"{reason}: its decoder {ended}", passing=error.passing) from None
    except RefusedError as error:
        raise UnreadableError(reason, passing=error.passing) from None
    except Exception as error:  # a decoder raises whatever the bytes lead it to, and quotes what it read
        raise UnreadableError(reason, passing=is_passing(error)) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom from saying anything: what it warns of and logs quotes headers."""
    log = logging.getLogger("pydicom")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError("does not fit into memory", passing=True) from None
    except Exception as error:  # as in stored_pixels
        raise UnreadableError("its header is damaged or contradicts itself", passing=is_passing(error)) from None
    finally:
        log.setLevel(before)


def _header(file: Path) -> Dataset:
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UnreadableError("DICOM is read by an optional package: pip install 'fedkr[dicom]'") from None
    check_file(file)
    if not is_dicom(file):
        raise UnreadableError("no DICOM file: the prefix DICM is missing")
    try:
        dataset = _parsed(file)
    except UnreadableError:
        raise
    except Exception as error:  # as in stored_pixels
        raise UnreadableError("its header cannot be read", passing=is_passing(error)) from None
    if not any(name in dataset for name in PIXELS):
        raise UnreadableError("holds no pixel data")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise UnreadableError("does not say how its pixel data are encoded (transfer syntax)")
    missing = [name for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel") if dataset.get(name) is None]
    if missing:
        raise UnreadableError(f"its header lacks {', '.join(missing)}")
    width, height = int(dataset.Columns), int(dataset.Rows)
    if width * height > MOST_PIXELS:
        raise UnreadableError(f"{width} x {height} pixels, more than {MOST_PIXELS}")
    check_pixels(width, height, file.stat().st_size)
    return dataset


def _parsed(file: Path) -> Dataset:
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return dcmread(file)
    # pydicom would unpack whatever a few bytes promise.
    return dcmread(BytesIO(PREAMBLE + EXPLICIT + _inflated(file)))


def _inflated(file: Path) -> bytes:
    """Return the deflated part of a file, all that follows its meta elements (PS3.5, A.5)."""
    from pydicom.filereader import read_dataset, read_preamble

    with file.open("rb") as handle:
        read_preamble(handle, False)
        read_dataset(handle, False, True, stop_when=lambda tag, vr, length: tag >> 16 != META_GROUP)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(handle.read(), MOST_INFLATED)
    if not inflater.eof:
        large = len(content) >= MOST_INFLATED
        raise UnreadableError(
            f"unpacks to more than {MOST_INFLATED:,} bytes" if large else "its packed part is cut off"
        )
    return content


def _frame_count(dataset: Dataset) -> int:
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= count <= MOST_FRAMES:
        raise UnreadableError(f"{count} frames; 1 to {MOST_FRAMES} are taken")
    return count


def _syntax(dataset: Dataset) -> str:
    """Return the name that pydicom has for a transfer syntax; what a file says of it is never repeated."""
    uid = dataset.file_meta.TransferSyntaxUID
    return str(uid.name) if uid.is_transfer_syntax and not uid.is_private else "an unknown transfer syntax"


def _patient(dataset: Dataset) -> bytes | None:
    known = str(dataset.get("PatientID") or "").strip()
    return hashlib.blake2b(known.encode(errors="surrogatepass"), key=PATIENT_KEY).digest() if known else None


class _View:
    """Where one frame's rules for its values stand: in the file's functional groups, its own or shared, or beside."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        self.dataset = dataset
        own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
        self.groups = [own[index]] if own and index < len(own) else []
        self.groups += [shared[0]] if shared else []

    def of(self, sequence: str) -> Dataset:
        """Return what holds the elements of a functional group; the file itself for one without the group."""
        found = (group.get(sequence) for group in self.groups)
        return next((items[0] for items in found if items), self.dataset)


def _as_levels(values: NDArray[Any], view: _View, config: DataConfig) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut

    photometric = str(view.dataset.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, view.dataset)
        return _upper_bits(values, 8 * values.dtype.itemsize)
    if values.ndim == 3:
        return _upper_bits(values, int(view.dataset.get("BitsStored") or view.dataset.BitsAllocated))
    grey = _grey_levels(values, view, config)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _upper_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return (values >> max(0, bits - 8)).astype(np.uint8)


def _grey_levels(values: NDArray[Any], view: _View, config: DataConfig) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_modality_lut

    real = apply_modality_lut(values, view.of("PixelValueTransformationSequence"))
    if not np.isfinite(real).all():
        raise UnreadableError("holds NaN or infinite values")
    if config.range:
        return scaled(real, config.range[0], config.range[1])
    shown = None if config.scale == "image" else _as_windowed(real, view)
    if shown is not None:
        return shown
    whole = values.dtype == np.uint8 and int(view.dataset.get("BitsStored") or 8) == 8
    if config.scale == "type" and whole and np.array_equal(values, real):
        return values.astype(np.uint8)
    padding = view.dataset.get("PixelPaddingValue")
    inside = real if padding is None or (values == padding).all() else real[values != padding]
    return scaled(real, float(inside.min()), float(inside.max()))


def _as_windowed(real: NDArray[Any], view: _View) -> NDArray[np.uint8] | None:
    """Return rescaled values through the file's first table or window (PS3.3, C.11.2); None where it has none."""
    from pydicom import Dataset
    from pydicom.pixels import apply_voi, apply_windowing

    rules = view.of("FrameVOILUTSequence")
    tables = rules.get("VOILUTSequence")
    if tables:
        table = tables[0]
        count, first, bits = (int(value) for value in table.LUTDescriptor)
        whole = np.rint(real).clip(first, first + (count or 1 << 16) - 1).astype(np.int64)
        table.LUTDescriptor[2] = 16  # pydicom counts a table's places in the type of its values: 8 bits would wrap
        try:
            return scaled(apply_voi(whole, rules, 0), 0, 2**bits - 1)
        finally:
            table.LUTDescriptor[2] = bits  # further frames read it again
    if rules.get("WindowCenter") is None or rules.get("WindowWidth") is None:
        return None
    # Asked for a window onto 8 bits, so that pydicom's own formula gives grey levels.
    window = Dataset()
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    window.WindowCenter, window.WindowWidth = rules.WindowCenter, rules.WindowWidth
    window.VOILUTFunction = rules.get("VOILUTFunction") or "LINEAR"
    return scaled(apply_windowing(real, window), 0, 255)
