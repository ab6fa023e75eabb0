"""A folder of images with one sub-folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedkr.config import DataConfig, nearest
from fedkr.data.images import ImageSet
from fedkr.data.registry import Source, set_apart_test
from fedkr.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Pillow tries every format that it knows, some of which start other programs (EPS) or are rarely tested.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
# A header that promises more is an error, whatever follows it; and no format packs so many pixels into a byte.
MOST_PIXELS, PIXELS_A_BYTE, SMALL = 64_000_000, 1_100, 1_000_000
GREY_MODES = ("1", "L", "LA")
# Modes with more than 8 bits a channel: Pillow would clip them to white without a word.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
LONGEST_REASON = 200


def load(config: DataConfig) -> Source:
    """Return the images under ``config.path``, cropped at the centre and resized to ``config.size`` if that is given.

    Classes are ``config.classes`` in that order (a class without a sub-folder has no images here), else the names of
    the sub-folders in alphabetical order. Images stay grey if all of them are.

    Raises:
        UserError: a missing folder, fewer than two classes, an unreadable or deep image, mixed sizes without a size.
    """
    if not config.path:
        raise UserError("data.path='': name the folder that holds one sub-folder a class")
    root = Path(config.path).expanduser()
    classes = _classes(root, config.classes)
    files = [(file, label) for label, name in enumerate(classes) for file in _image_files(root / name)]
    if not files:
        raise UserError(f"{root}: no images ({', '.join(SUFFIXES)}) in its sub-folders; put them there")
    images = _same_size([(file, _read(file, config.size)) for file, _ in files])
    labels = np.array([label for _, label in files], dtype=np.int64)
    return set_apart_test(ImageSet(images, labels, classes), config.test_fraction, str(root))


def _classes(root: Path, wanted: Sequence[str]) -> tuple[str, ...]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; data.path must name a folder with one sub-folder a class")
    found = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    for name in found:
        if wanted and name not in wanted:
            raise UserError(f"{root / name}: not in data.classes{nearest(name, wanted)}")
        if not wanted and not _image_files(root / name):
            raise UserError(f"{root / name}: a class without images; add some, remove it, or name data.classes")
    classes = tuple(wanted or found)
    if len(classes) < 2:
        raise UserError(f"{root}: {len(classes)} sub-folder(s); at least two classes are needed, one sub-folder each")
    return classes


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = sorted(folder.iterdir())
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]


def open_image(file: Path) -> Image.Image:
    """Return an upright picture, in mode L where it is grey and RGB where not.

    Raises:
        UserError: a file that is no image, or one with more than 8 bits a channel or with several frames.
    """
    try:
        # From memory: a length that a damaged header promises is not set aside before it is read.
        with Image.open(BytesIO(file.read_bytes()), formats=FORMATS) as image:
            _check_header(file, image)
            return ImageOps.exif_transpose(image).convert("L" if image.mode in GREY_MODES else "RGB")
    except UserError:
        raise
    except Exception as error:  # the parser of a damaged image raises whatever its bytes lead it to
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise UserError(f"{file}: not a readable image ({reason}); replace or remove it") from None


def _check_header(file: Path, image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MOST_PIXELS or pixels > PIXELS_A_BYTE * file.stat().st_size + SMALL:
        raise UserError(f"{file}: {image.width} x {image.height} pixels, more than can be; save it smaller")
    if image.mode in DEEP_MODES or getattr(image, "n_frames", 1) > 1:
        what = "several frames" if getattr(image, "n_frames", 1) > 1 else "more than 8 bits a pixel"
        raise UserError(f"{file}: has {what}; save it as one image of 8 bits a channel")


def _read(file: Path, size: int) -> NDArray[np.uint8]:
    """Return uint8 ``[H, W, 1 or 3]``."""
    upright = open_image(file)
    if size:
        upright = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(upright, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _same_size(images: Sequence[tuple[Path, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    height, width = images[0][1].shape[:2]
    for file, pixels in images:
        if pixels.shape[:2] != (height, width) or height != width:
            raise UserError(
                f"{file}: {pixels.shape[1]} x {pixels.shape[0]} pixels, where all must be square and of one size; "
                "set data.size to crop and resize, as in data.size=64"
            )
    channels = max(pixels.shape[2] for _, pixels in images)
    return np.stack([np.broadcast_to(pixels, (height, width, channels)) for _, pixels in images])
