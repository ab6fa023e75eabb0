"""The arrays of images of an ``.npz`` file as 8-bit squares, by the rules that hold for files of single images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DataConfig
from fedkr.data.pictures.frame import UnreadableError
from fedkr.data.pictures.levels import HIGHEST, Brightest, NoRuleError, levels, range_option
from fedkr.data.sources.npz_file import NpzFile
from fedkr.errors import UserError, few

# Of larger arrays nobody counts what is not a number: the rule for values says that some are.
LOOKED_AT = 16_000_000
# Booleans, whole numbers and floating-point ones.
NUMBERS = "biuf"
CHANNELS = (1, 3)
WHITE = 255
Images = NDArray[np.uint8]


def read_images(file: NpzFile, key: str) -> Images:
    """Return uint8 images ``[N, H, W, 1 or 3]``; raise :class:`UserError` for an array of anything else."""
    check_uint8(file, key)
    _check_shape(file, key, file.header(key)[0])
    return _with_channels(file.read(key))


def check_uint8(file: NpzFile, key: str) -> None:
    """Raise :class:`UserError` for images of another type than uint8."""
    _refuse_nan(file, key, "repair them and save as uint8, 0 to 255")
    if (dtype := file.header(key)[1]) != np.uint8:
        raise UserError(f"{file.path}: {key} has dtype {dtype}; save it as uint8, 0 to 255")


def read_squares(file: NpzFile, keys: Sequence[str], config: DataConfig) -> tuple[dict[str, Images], list[str]]:
    """Return the arrays ``keys`` as uint8 images ``[N, S, S, 1 or 3]``, and a line for each thing that was assumed.

    Arrays of more than 8 bits, and booleans, become 8 bits as files of single images do
    (:func:`fedkr.data.pictures.levels.levels`). Channels that stand first are taken there where the shape leaves no
    doubt.

    Raises:
        UserError: an array of another shape or type; values that ``config`` has no rule for, or that its rule would
            make almost black; arrays whose images differ in size.
    """
    first = [key for key in keys if _channels_first(file.header(key)[0])]
    for key in keys:
        _check_array(file, key, key in first)
    brightest = {key: Brightest() for key in keys}
    found = {key: _as_levels(file, key, config, brightest[key], keys) for key in keys}
    _check_brightest(file, brightest)
    squares = {key: np.moveaxis(images, 1, 3) if key in first else images for key, images in found.items()}
    images = {key: np.ascontiguousarray(_with_channels(array)) for key, array in squares.items()}
    _check_one_size(file, images)
    return images, [*_told_first(file, first), *_told_whole(file, keys, config)]


def _channels_first(shape: Sequence[int]) -> bool:
    """Whether only the second axis of ``[N, C, S, S]`` can be colours."""
    return len(shape) == 4 and shape[1] in CHANNELS and shape[3] not in CHANNELS and shape[2] == shape[3]


def _check_array(file: NpzFile, key: str, first: bool) -> None:
    (shape, dtype), where = file.header(key), f"{file.path}: {key}"
    if dtype.kind not in NUMBERS:
        raise UserError(f"{where} has dtype {dtype}; save it as uint8, 0 to 255")
    if not first:
        _check_shape(file, key, shape)
    height, width = shape[2:4] if first else shape[1:3]
    if height != width:
        raise UserError(f"{where} has images of {height} x {width} pixels; crop or pad them to squares")
    if not math.prod(shape):
        raise UserError(f"{where} is empty (shape {list(shape)}); leave the split out or add images")
    _refuse_nan(file, key, "repair them")


def _check_shape(file: NpzFile, key: str, shape: Sequence[int]) -> None:
    if len(shape) not in (3, 4) or tuple(shape[3:]) not in ((), *((count,) for count in CHANNELS)):
        raise UserError(f"{file.path}: {key} has shape {list(shape)}; save it as [N, S, S] or [N, S, S, 1 or 3]")


def _with_channels(images: Images) -> Images:
    return images[..., None] if images.ndim == 3 else images


def _refuse_nan(file: NpzFile, key: str, remedy: str) -> None:
    shape, dtype = file.header(key)
    if not np.issubdtype(dtype, np.floating) or dtype.itemsize * math.prod(shape) > LOOKED_AT:
        return
    if missing := int(np.isnan(file.read(key)).sum()):
        raise UserError(f"{file.path}: {key} holds {missing} NaN values; {remedy}")


def _as_levels(file: NpzFile, key: str, config: DataConfig, brightest: Brightest, keys: Sequence[str]) -> Images:
    values = file.read(key)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values * np.uint8(WHITE)  # as pictures of one bit
    try:
        if config.scale == "image":
            return np.stack([levels(image, config).pixels for image in values])
        frame = levels(values, config)
    except NoRuleError:
        # One range for all of the file: a split's own would clip the others.
        low, high = _ends(file, keys)
        found = f"are from {low:g} to {high:g}" if low < high else f"are all {low:g}, which shows nothing"
        raise UserError(
            f"{file.path}: {key} has dtype {values.dtype} and values that its type does not say the range of; the "
            f"file's {found}: set {range_option(low, high)} or data.scale=image"
        ) from None
    except UnreadableError as error:
        raise UserError(f"{file.path}: {key} {error}; repair them") from None
    brightest.add(frame.top, len(values))
    return frame.pixels


def _check_brightest(file: NpzFile, brightest: Mapping[str, Brightest]) -> None:
    """Raise :class:`UserError` if the arrays together would be almost black, or one of them beside brighter ones."""
    counted = brightest.values()
    Brightest(sum(one.pictures for one in counted), max(one.top for one in counted)).check(str(file.path))
    for key, one in brightest.items():
        if one.dark:
            raise UserError(
                f"{file.path}: {key}: the brightest pixel of {one.pictures} image(s) of 16 bits is {one.top} of "
                f"{HIGHEST}, so they would be almost black, and other splits would not; save all splits in one scale, "
                f"or set data.range=[0,{HIGHEST}] if that is meant"
            )


def _ends(file: NpzFile, keys: Sequence[str]) -> tuple[float, float]:
    """Return the least and the greatest value of those arrays that are not uint8."""
    ends = [
        float(end)
        for key in keys
        if file.header(key)[1] != np.uint8
        for values in [file.read(key)]
        for end in (values.min(), values.max())
    ]
    return min(ends), max(ends)


def _check_one_size(file: NpzFile, images: Mapping[str, Images]) -> None:
    train, *others = images
    expected = images[train].shape[1:]
    for key in others:
        if images[key].shape[1:] != expected:
            raise UserError(
                f"{file.path}: {key} has images of shape {list(images[key].shape[1:])}, "
                f"{train} of {list(expected)}; save all splits in one size"
            )


def _told_first(file: NpzFile, first: Sequence[str]) -> list[str]:
    if not first:
        return []
    return [f"{file.path.name}: {few(first)}: read as [N, channels, S, S], since no other axis can be colours"]


def _told_whole(file: NpzFile, keys: Sequence[str], config: DataConfig) -> list[str]:
    """Return a line where an option for more than 8 bits changes nothing."""
    if not (config.range or config.scale == "image"):
        return []
    plain = [key for key in keys if file.header(key)[1] == np.uint8]
    return [f"{file.path.name}: {few(plain)}: 8 bits, so data.range and data.scale change nothing"] if plain else []
