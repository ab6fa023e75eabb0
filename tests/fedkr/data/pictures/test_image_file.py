"""What becomes of each format: the pixels are those that its values stand for."""

import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fedkr.config import DataConfig
from fedkr.data.pictures import image_file
from fedkr.data.pictures.frame import UnreadableError
from fedkr.data.pictures.image_file import read_image_file

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)


@pytest.fixture
def read(tmp_path):
    """Return a function that saves a picture and returns the first frame that is read of it."""

    def save_and_read(picture, suffix="png", options=None, **how):
        picture.save(tmp_path / f"x.{suffix}", **how)
        return read_image_file(tmp_path / f"x.{suffix}", DataConfig(**(options or {}))).frames[0].pixels

    return save_and_read


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_formats_give_their_pixels(read, suffix, pixels):
    found = read(Image.fromarray(pixels), suffix, **({"lossless": True} if suffix == "webp" else {}))
    # WebP knows no grey.
    assert np.array_equal(found, pixels if found.ndim == pixels.ndim else np.stack([pixels] * 3, axis=2))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_tiff_of_any_depth_and_compression(read, compression, kind):
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[kind]
    assert np.array_equal(
        read(Image.fromarray((GREY * kind(scale)).astype(kind)), "tif", compression=compression), GREY
    )


def test_transparent_pixels_are_the_background_whatever_colour_they_hide(read):
    pixels = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    pixels[:2, :, 3], pixels[2, :, 3] = 0, 128
    for background in (0, 200):
        found = read(Image.fromarray(pixels), options={"background": background})
        assert (found[:2] == background).all() and np.array_equal(found[3], COLOUR[3])
        assert abs(found[2].astype(int) - (COLOUR[2].astype(int) + background) // 2).max() <= 2


def test_grey_with_transparency_stays_grey(read):
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    assert np.array_equal(read(Image.fromarray(np.dstack([GREY, alpha]), "LA")), np.where(GREY > 100, GREY, 0))
    keyed = read(Image.fromarray(GREY), options={"background": 255}, transparency=50)
    assert np.array_equal(keyed, np.where(GREY == 50, 255, GREY))


def test_palettes_become_what_their_colours_are(read):
    assert np.array_equal(read(Image.fromarray(GREY).convert("P")), GREY)
    picture = Image.fromarray((GREY // 10).astype(np.uint8), "P")
    picture.putpalette([value for level in range(24) for value in (level, 2 * level, 3 * level)])
    levels = GREY // 10
    assert np.array_equal(read(picture), np.dstack([levels, 2 * levels, 3 * levels]))
    clear = read(picture, transparency=bytes([0] * 12 + [255] * 12), options={"background": 9})
    assert (clear[:2] == 9).all() and np.array_equal(clear[2:, :, 1], 2 * levels[2:])


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted(read, suffix):
    found = read(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), suffix)
    assert found.shape == (8, 8, 3) and abs(found.astype(int) - (255, 0, 0)).max() <= 3


def test_lab_is_converted(read):
    found = read(Image.new("LAB", (4, 4), (255, 128, 128)), "tif")
    assert found.shape == (4, 4, 3) and found.min() >= 250


def test_of_a_phones_mpo_the_first_picture_is_taken(tmp_path):
    first, second = Image.new("RGB", (16, 16), (250, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 250))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    for frames in ("first", "all"):
        found = read_image_file(tmp_path / "x.jpg", DataConfig(frames=frames))
        assert (len(found.frames), found.further) == (1, 0)
        assert found.frames[0].pixels[..., 0].min() > 200


def test_all_pages_of_a_tiff_in_their_order(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), 10 * page, np.uint8)) for page in range(5)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    assert read_image_file(tmp_path / "x.tif", DataConfig()).further == 4
    found = read_image_file(tmp_path / "x.tif", DataConfig(frames="all"))
    assert [int(frame.pixels[0, 0]) for frame in found.frames] == [0, 10, 20, 30, 40]


def exif(*entries, extra=b""):
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + extra


ROTATED = (0x0112, 3, 1, 6)
END = 8 + 2 + 24 + 4
ODD_EXIF = {
    "plain": exif(ROTATED),
    "minus one divided by zero": exif(ROTATED, (0x011A, 10, 1, END), extra=struct.pack("<ii", -1, 0)),
    "an offset outside": exif(ROTATED, (0x011A, 5, 2, 4_000_000)),
    "a position that is nowhere": exif(ROTATED, (0x8825, 4, 1, 99_999)),
    "a directory that contains itself": exif(ROTATED, (0x8825, 4, 1, 8)),
    "a maker's note of the whole memory": exif(ROTATED, (0x927C, 7, 2**31, 60)),
    "an unknown type": exif(ROTATED, (0x011A, 99, 1, END)),
    "a doubled header": b"Exif\0\0" + exif(ROTATED),
    "more entries than there are": exif(ROTATED)[:14] + b"\xff\0" + exif(ROTATED)[16:],
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("what", ODD_EXIF)
def test_odd_exif_stops_nothing_and_the_orientation_counts(read, suffix, what):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :12] = 255
    found = read(Image.fromarray(pixels), suffix, exif=ODD_EXIF[what])
    assert found.shape == (24, 16, 3) and found[2, -3].min() > 250 and found[-3, 2].max() < 5


@pytest.mark.parametrize("odd", [exif((0x0112, 2, 1, 6)), exif((0x0112, 3, 1, 99)), b"Exif\0\0II"])
def test_an_orientation_that_is_none_turns_nothing(read, odd):
    assert np.array_equal(read(Image.fromarray(COLOUR), exif=odd), COLOUR)


def test_a_tiff_is_turned_once(read):
    assert np.array_equal(read(Image.fromarray(GREY), "tif", tiffinfo={0x0112: 6}), np.rot90(GREY, -1))


@pytest.mark.parametrize(
    ("values", "options", "wanted"),
    [
        (np.array([[0, 255, 256, 65535]], np.uint16), {}, [0, 0, 1, 255]),
        (np.array([[0, 100, 200, 300]], np.uint16), {"range": [100, 200]}, [0, 0, 255, 255]),
        (np.array([[100, 160, 200, 200]], np.uint16), {"scale": "image"}, [0, 153, 255, 255]),
        (np.array([[7, 7, 7, 7]], np.uint16), {"scale": "image"}, [0, 0, 0, 0]),
        (np.array([[0, 0.5, 1, 0.25]], np.float32), {}, [0, 128, 255, 64]),
        (np.array([[-1000, -300, 400, 3000]], np.float32), {"range": [-1000, 400]}, [0, 128, 255, 255]),
        (np.array([[-1000, -300, 400, 400]], np.int32), {"range": [-1000, 400]}, [0, 128, 255, 255]),
    ],
)
def test_more_than_8_bits_become_8_by_the_stated_rule(read, values, options, wanted):
    assert read(Image.fromarray(values), "tif", options=options).ravel().tolist() == wanted


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0, 2]], np.float32), r"values from 0 to 2; set data.range=\[0,2\] or data.scale=image"),
        (np.array([[-5, 2]], np.int32), r"values from -5 to 2; set data.range"),
        (np.array([[np.nan, 1]], np.float32), "holds NaN or infinite values"),
        (np.array([[np.inf, 1]], np.float32), "holds NaN or infinite values"),
    ],
)
def test_values_without_a_rule_are_refused_with_what_they_are(read, values, reason):
    with pytest.raises(UnreadableError, match=reason):
        read(Image.fromarray(values), "tif")


def png_of_48_bits(path, pixels):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_of_16_bit_colours_the_upper_8_count_and_no_range_is_passed_over(tmp_path):
    png_of_48_bits(tmp_path / "x.png", COLOUR.astype(np.uint16) * 256 + 255)
    assert np.array_equal(read_image_file(tmp_path / "x.png", DataConfig()).frames[0].pixels, COLOUR)
    with pytest.raises(UnreadableError, match="16 bits a channel in colour"):
        read_image_file(tmp_path / "x.png", DataConfig(range=[0, 4095]))


@pytest.mark.parametrize(
    ("fit", "wanted"),
    [("crop", [[90, 90], [90, 90]]), ("pad", [[7, 7], [90, 90], [90, 90], [7, 7]]), ("stretch", [[90, 90], [90, 90]])],
)
def test_oblong_pictures_are_cropped_padded_or_stretched(read, fit, wanted):
    side = len(wanted)
    found = read(Image.fromarray(np.full((40, 80), 90, np.uint8)), options={"size": side, "fit": fit, "background": 7})
    assert found[:, side // 2 - 1 : side // 2 + 1].tolist() == wanted


def test_cropping_loses_the_borders_and_stretching_keeps_them(read):
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, :15] = 255
    assert read(Image.fromarray(pixels), options={"size": 8}).max() == 0
    assert read(Image.fromarray(pixels), options={"size": 8, "fit": "stretch"})[4, 0] > 240


def test_a_hundred_megapixels_are_read_in_bounded_memory(read):
    side = 10_000
    picture = Image.new("L", (side, side), 0)
    picture.paste(200, (0, 0, side, side // 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read(picture, "png", options={"size": 64}, compress_level=1)
    assert abs(found[:30].astype(int) - 200).max() <= 2 and found[34:].max() <= 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


MODES = {
    "tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"],
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "jpg": ["L", "RGB", "CMYK"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_large_pictures_of_any_kind_are_reduced_to_much_the_same(read, monkeypatch, mode, suffix):
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[:, None], (160, 128))
    picture = Image.fromarray(ramp)
    if mode in ("I;16", "F"):
        picture = Image.fromarray(ramp.astype(np.uint16) * 257 if mode == "I;16" else ramp.astype(np.float32) / 255)
    else:
        picture = picture.convert(mode)
    usual = read(picture, suffix, options={"size": 16})
    monkeypatch.setattr(image_file, "MOST_PIXELS", 1000)
    assert abs(read(picture, suffix, options={"size": 16}).astype(int) - usual).max() <= (60 if mode == "1" else 3)


def test_a_large_picture_without_a_size_asks_for_one(read, monkeypatch):
    monkeypatch.setattr(image_file, "MOST_PIXELS", 1000)
    with pytest.raises(UnreadableError, match=r"90 x 90 pixels; set data\.size"):
        read(Image.new("L", (90, 90)))


def test_a_picture_that_memory_is_not_for_is_refused(read, monkeypatch):
    monkeypatch.setattr(image_file, "MOST_PIXELS", 1000)
    monkeypatch.setattr(image_file, "MOST_BYTES", 10_000)
    with pytest.raises(UnreadableError, match="100 x 90 pixels of mode RGB, more than memory is for"):
        read(Image.new("RGB", (100, 90)), options={"size": 8})


def test_pillows_own_limit_is_as_it_was_afterwards(read):
    before = Image.MAX_IMAGE_PIXELS
    read(Image.fromarray(GREY))
    assert before == Image.MAX_IMAGE_PIXELS
