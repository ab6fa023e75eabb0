"""Pictures in the formats that cameras, scanners and exports write: PNG, JPEG, BMP, TIFF and WebP."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fedkr.config import DataConfig
from fedkr.data.pictures.frame import (
    LONGEST_REASON,
    MOST_BYTES,
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
from fedkr.data.pictures.levels import levels
from fedkr.errors import UserError, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".tif", ".tiff", ".webp")
# Pillow tries every format that it knows, some of which start other programs (EPS) or are rarely tested.
# JPEG includes MPO.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
GREY_MODES = ("1", "L", "LA", "La")
# One value a pixel, of more than 8 bits: Pillow would clip them to white without a word.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "LA": 4, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image_file(file: Path, config: DataConfig) -> Pictures:
    """Return the pictures of a file, upright and of the dataset's size and colours.

    Of a file with several pages or frames the first is taken, or all of them (``config.frames``); of a phone's MPO
    always the first, since the others are previews or the same from another angle.

    Raises:
        UnreadableError: a damaged file, another format, or values that ``config`` has no rule for.
    """
    with _opened(file) as image:
        count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        taken = count if config.frames == "all" else 1
        if taken > MOST_FRAMES:
            raise UnreadableError(f"{count} frames, more than {MOST_FRAMES}")
        frames = []
        for index in range(taken):
            if index:
                image.seek(index)
            upright, top = _upright(image, file, config)
            plain = image.mode not in DEEP_MODES
            frames.append(Frame(np.asarray(fitted(upright, config), dtype=np.uint8), top, plain))
        return Pictures(frames, further=count - taken)


def open_image(file: Path, config: DataConfig) -> Image.Image:
    """Return a file's (first) picture upright, in mode L where it is grey and RGB where not, in its own size.

    Raises:
        UserError: a file that is no image, or one with more than 8 bits a channel where ``config`` has no range or
            scale for these.
    """
    try:
        with _opened(file) as image:
            if image.mode in DEEP_MODES and not config.range and config.scale != "image":
                raise UserError(f"{file}: has more than 8 bits a pixel; save it as one image of 8 bits a channel")
            return _upright(image, file, config)[0]
    except UnreadableError as error:
        raise UserError(f"{file}: not a readable image ({error}); replace or remove it") from None


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open a file for Pillow, whose every failure in here becomes an :class:`UnreadableError`."""
    check_file(file)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings():
            # Odd tags, such as EXIF's, concern no pixel.
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = None  # here a limit in bytes takes its place
            # From memory: a length that a damaged header promises is not set aside before it is read.
            with Image.open(BytesIO(file.read_bytes()), formats=FORMATS) as image:
                yield image
    except (UserError, UnreadableError):
        raise
    except UnidentifiedImageError:
        raise UnreadableError("none of the formats that are read, or damaged at its beginning") from None
    except MemoryError:
        raise UnreadableError("does not fit into memory", passing=True) from None
    except OSError as error:
        raise UnreadableError(_line(error.strerror or str(error)), passing=is_passing(error)) from None
    except Exception as error:  # the parser of a damaged image raises whatever its bytes lead it to
        raise UnreadableError(_line(str(error) or type(error).__name__)) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _line(reason: str) -> str:
    return one_line(reason, LONGEST_REASON)


def _upright(image: Image.Image, file: Path, config: DataConfig) -> tuple[Image.Image, int | None]:
    """Return one frame in mode L or RGB, turned as its tag says; and the greatest value as :class:`Frame` has it."""
    top, large = None, _prepare(image, file, config)
    deep_colour = image.mode not in DEEP_MODES and any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ()))
    if deep_colour and (config.range or config.scale == "image"):
        raise UnreadableError("16 bits a channel in colour, of which only the upper 8 can be read: data.range=[]")
    image.load()
    turn = _turn(image)
    if image.mode in DEEP_MODES:
        frame = levels(np.asarray(image), config)
        image, top = Image.fromarray(frame.pixels), frame.top
    if large:
        image = _reduced(image, config.size, config.background)
    plain = flattened(image, config.background)
    return (plain if turn is None else plain.transpose(turn)), top


def _prepare(image: Image.Image, file: Path, config: DataConfig) -> bool:
    """Check a header; have a large JPEG decoded at a fraction of its size; return whether the image is large."""
    check_pixels(image.width, image.height, file.stat().st_size)
    if image.width * image.height <= MOST_PIXELS:
        return False
    if not config.size:
        raise UnreadableError(f"{image.width} x {image.height} pixels; set data.size to have it made smaller")
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (2 * config.size, 2 * config.size))
    if image.width * image.height * BYTES_A_PIXEL.get(image.mode, 4) > MOST_BYTES:
        raise UnreadableError(f"{image.width} x {image.height} pixels of mode {image.mode}, more than memory is for")
    return True


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn a picture by its orientation tag; an EXIF block that cannot be read turns nothing."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION) or 0)
    except Exception:  # as in _opened: of a damaged block nothing but the tag matters
        return None


def _reduced(image: Image.Image, size: int, background: int) -> Image.Image:
    """Return a large picture made smaller by a whole factor, at least twice as large as it is to become."""
    factor = max(1, min(image.size) // (2 * size))
    if image.mode not in ("L", "RGB", "CMYK", "LA", "RGBA"):
        image = flattened(image, background)
    return image.reduce(factor)


def flattened(image: Image.Image, background: int) -> Image.Image:
    """Return a picture in mode L, or RGB where it has colours, transparent pixels over a grey level ``background``.

    A palette of greys is grey. CMYK, YCbCr and LAB are converted as Pillow does without colour profiles.
    """
    mode = "L" if image.mode in GREY_MODES or _has_grey_palette(image) else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    layered = image if "A" in image.getbands() else image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    plain = layered.convert("RGB").convert(mode) if image.mode in ("P", "PA") else layered.convert(mode)
    return Image.composite(plain, Image.new(mode, image.size, (background,) * len(mode)), layered.getchannel("A"))


def _has_grey_palette(image: Image.Image) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    colours = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    used = colours[np.array(image.getchannel(0).histogram()[: len(colours)], dtype=bool)]
    return bool((used == used[:, :1]).all())
