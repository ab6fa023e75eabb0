"""Pictures of any sides and colours as what a dataset asks for: squares of one size, grey or in colour."""

from __future__ import annotations

from PIL import Image, ImageOps

from fedkr.config import DataConfig


def fitted(picture: Image.Image, config: DataConfig) -> Image.Image:
    """Return a picture of mode L or RGB in the dataset's size and colours, bicubic; its own where none are asked for.

    ``crop`` takes the central square, ``pad`` the whole on a square of ``config.background``, ``stretch`` the whole
    with both sides made equal. Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    """
    if config.channels:
        picture = picture.convert("L" if config.channels == 1 else "RGB")
    side, bicubic = (config.size, config.size), Image.Resampling.BICUBIC
    if not config.size:
        return picture
    if config.fit == "pad":
        colour = (config.background,) * len(picture.getbands())
        return ImageOps.pad(picture, side, bicubic, color=colour)
    if config.fit == "stretch":
        return picture.resize(side, bicubic)
    return ImageOps.fit(picture, side, bicubic)
