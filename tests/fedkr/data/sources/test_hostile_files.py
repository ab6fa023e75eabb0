"""Damaged and hostile files: one line each, in bounded time and memory.

``FEDKR_HYPOTHESIS_CASES`` sets how many cases each property is tried on (a thorough run has 100000).
"""

import io
import os
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedkr.config import DataConfig
from fedkr.data.pictures.frame import UnreadableError
from fedkr.data.pictures.image_file import open_image, read_image_file
from fedkr.data.sources.npz import MOST_CLASSES, read_source
from fedkr.data.sources.npz_file import NpzFile
from fedkr.errors import UserError
from tests.hostile import read_bounded

CASES = int(os.environ.get("FEDKR_HYPOTHESIS_CASES", "60"))
thorough = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def npy(shape=(4, 6, 6), dtype="|u1", data=b"", order=False, version=(1, 0)):
    """Return an array file whose header promises ``shape`` and ``dtype`` whatever ``data`` holds."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY" + bytes(version) + len(header).to_bytes(2, "little") + header + data


def archive(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def plain(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GOOD = {
    "train_images": plain(np.arange(288, dtype=np.uint8).reshape(8, 6, 6)),
    "train_labels": plain(np.arange(8) % 2),
    "test_images": plain(np.zeros((4, 6, 6), np.uint8)),
    "test_labels": plain(np.arange(4) % 2),
}


def read(path, options=None):
    with NpzFile(path) as file:
        return read_source(file, DataConfig(**(options or {})))


def bounded(work, path, *options):
    """Run ``work`` on a file; it returns, or raises a UserError of one line that names the file, within the bounds."""

    def named():
        try:
            work(path, *options)
        except UserError as error:
            assert str(path) in str(error)
            raise

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_bounded(work.__name__, named)


LIES = {
    "a header of petabytes": {"train_images": npy((2**40, 64, 64))},
    "a header of more than an integer holds": {"train_images": npy((2**62, 2**62, 4))},
    "a negative side": {"train_images": npy((-4, 6, 6), data=bytes(144))},
    "a side that is no number": {"train_images": npy(("x", 6, 6))},
    "a type of gigabytes": {"train_images": npy((1,), "|V4000000000")},
    "labels of petabytes": {"train_labels": npy((2**45,), "<i8")},
    "objects": {"train_images": npy((4, 6, 6), "|O", b"cos\nsystem\n(S'true'\ntR.")},
    "a deep header": {"train_images": npy((4,), "<f4").replace(b"(4,)", b"(" * 900 + b")" * 900)},
    "zeros of gigabytes": {"train_images": npy((10_000_000,), "<f8", bytes(80_000_000))},
    "zeros with a fitting header": {"train_labels": npy((10_000_000,), "<f8", bytes(80_000_000))},
    "a long version 2 header": {"train_images": npy(version=(2, 0)) + b" " * 50_000_000},
    "a label beyond what counts": {"train_labels": plain(np.array([0, 2**63] * 4, np.uint64))},
    "a label of a book": {"train_labels": plain(np.array(["a" * 100_000, "b"] * 4))},
    "a million class names": {"classes": plain(np.zeros(1_000_000, "U1"))},
    "a class name of a book": {"classes": plain(np.array(["a" * 1_000_000, "b"]))},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_promises_what_it_does_not_hold_is_one_line(lie, tmp_path):
    path = tmp_path / "lie.npz"
    path.write_bytes(archive(GOOD | LIES[lie]))
    with pytest.raises(UserError):
        read(path)
    bounded(read, path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_that_numpy_does_not_write_are_refused(method, tmp_path):
    path = tmp_path / "odd.npz"
    path.write_bytes(archive(GOOD, method))
    with pytest.raises(UserError, match=r"train_images cannot be read \(damaged: packed by another method"):
        read(path)


def test_a_member_that_says_it_unpacks_to_terabytes_is_refused(tmp_path):
    path, content = tmp_path / "bomb.npz", bytearray(archive(GOOD))
    start = content.index(b"PK\x01\x02")
    content[start + 24 : start + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="bytes cannot unpack to 2147483648"):
        read(path)


def test_more_classes_than_a_study_can_have_are_refused(tmp_path):
    path = tmp_path / "many.npz"
    images = plain(np.zeros((MOST_CLASSES + 1, 6, 6), np.uint8))
    path.write_bytes(archive(GOOD | {"train_images": images, "train_labels": plain(np.arange(MOST_CLASSES + 1))}))
    with pytest.raises(UserError, match="1001 different labels; a study has at most 1000 classes"):
        read(path)


def mutated(draw, content):
    """Overwrite, cut, double or insert a few parts of a file."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        patch = draw(st.binary(max_size=12))
        kind = draw(st.sampled_from(["write", "insert", "cut", "drop"]))
        if kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at : at + len(patch)]
        else:
            content[at : at + (len(patch) if kind == "write" else 0)] = patch
    return bytes(content)


PIXELS = np.arange(288).reshape(8, 6, 6)
OTHER_IMAGES = [PIXELS.astype(kind) for kind in ("<f4", ">f8", "<f2", "<u2", "<i8", "|b1")]
OTHER_IMAGES += [PIXELS.astype(np.uint8)[:, None], np.repeat(PIXELS[:, None] / 287, 3, axis=1)]
NPZ_OPTIONS = [{}, {}, {"range": [0, 287]}, {"scale": "image"}]


@st.composite
def npz_files(draw):
    members = dict(GOOD)
    if draw(st.booleans()):
        members["train_images"] = plain(draw(st.sampled_from(OTHER_IMAGES)))
    name = draw(st.sampled_from([*GOOD, "classes", "train_groups", "val_images"]))
    sides = st.lists(st.integers(-2, 2**63) | st.integers(0, 9), max_size=5).map(tuple)
    types = st.sampled_from(["|u1", "<i8", "<f8", "|b1", "<U9", "|S3", "<M8[s]", "<m8[D]", "<c16", "|V7", ">i2", "|O"])
    kind = draw(st.sampled_from(["header", "member", "file"]))
    if kind == "header":
        members[name] = npy(draw(sides), draw(types), draw(st.binary(max_size=64)), draw(st.booleans()))
    elif kind == "member":
        members[name] = mutated(draw, members.get(name, GOOD["train_labels"]))
    content = archive(members, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
    return mutated(draw, content) if kind == "file" else content


@thorough
@given(npz_files(), st.sampled_from(NPZ_OPTIONS))
def test_the_npz_reader_is_total(tmp_path, content, options):
    (tmp_path / "case.npz").write_bytes(content)
    bounded(read, tmp_path / "case.npz", options)


def pictures():
    found = {}
    kinds = {
        "L": ("PNG", "JPEG", "BMP", "TIFF"),
        "RGB": ("PNG", "JPEG", "TIFF", "WEBP", "MPO"),
        "P": ("PNG", "TIFF"),
        "RGBA": ("PNG", "WEBP"),
        "LA": ("PNG", "TIFF"),
        "CMYK": ("JPEG", "TIFF"),
        "I;16": ("PNG", "TIFF"),
        "F": ("TIFF",),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, formats in kinds.items():
        for kind in formats:
            picture, buffer = Image.effect_noise((9, 7), 80), io.BytesIO()
            picture = picture.convert("RGB" if mode in ("P", "CMYK") else "F" if mode == "I;16" else "L").convert(mode)
            more = {"save_all": True, "append_images": [picture]} if kind in ("MPO", "TIFF") else {}
            picture.save(buffer, kind, **({} if kind == "BMP" else {"exif": exif}), **more)
            found[kind, mode] = buffer.getvalue()
    return found


PICTURES = pictures()


@st.composite
def picture_files(draw):
    return mutated(draw, PICTURES[draw(st.sampled_from(sorted(PICTURES)))])


@thorough
@given(picture_files())
def test_the_image_reader_is_total(tmp_path, content):
    (tmp_path / "case.png").write_bytes(content)
    bounded(open_image, tmp_path / "case.png", DataConfig())


OPTIONS = [{}, {"size": 5}, {"size": 5, "fit": "pad", "channels": 1}, {"scale": "image"}, {"range": [0, 300]}]


def read_all(path, options):
    try:
        pictures = read_image_file(path, DataConfig(frames="all", **options))
    except UnreadableError as error:
        assert str(error).isprintable() and str(error)
        return
    for frame in pictures.frames:
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape[2:] in ((), (3,))
        assert not options.get("size") or frame.pixels.shape[:2] == (5, 5)


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in PICTURES}))
def test_each_format_as_it_is_can_be_read(tmp_path, kind):
    for (written, _), content in PICTURES.items():
        if written == kind:
            (tmp_path / "case").write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert read_image_file(tmp_path / "case", DataConfig(scale="image", size=5)).frames


@thorough
@given(picture_files(), st.sampled_from(OPTIONS))
def test_the_reader_of_a_datasets_files_is_total(tmp_path, content, options):
    (tmp_path / "case").write_bytes(content)
    bounded(read_all, tmp_path / "case", options)


def test_an_image_whose_header_promises_more_than_its_file_can_hold_is_refused(tmp_path):
    content = bytearray(PICTURES["BMP", "L"])
    content[18:26] = (7000).to_bytes(4, "little") + (7000).to_bytes(4, "little")
    (tmp_path / "large.bmp").write_bytes(content)
    with pytest.raises(
        UserError, match=r"large.bmp: not a readable image \(7000 x 7000 pixels, more than can be in \d+ bytes\)"
    ):
        open_image(tmp_path / "large.bmp", DataConfig())


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PPM", "JPEG2000", "ICO"])
def test_other_formats_are_no_images_whatever_their_names_say(kind, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "scan.png", kind)
    with pytest.raises(UserError, match=r"scan.png: not a readable image"):
        open_image(tmp_path / "scan.png", DataConfig())
