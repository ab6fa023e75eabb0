"""DICOM: values as pydicom has them, grey levels as the standard's rules say, and nothing of a header anywhere."""

import errno
import logging
import resource
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.data.pictures import dicom
from fedkr.data.pictures.apart import FrameDecoder
from fedkr.data.pictures.dicom import is_dicom, read_dicom, stored_pixels
from fedkr.data.pictures.frame import UnreadableError
from fedkr.errors import UserError
from tests.hostile import damaged, read_bounded, thorough

pydicom = pytest.importorskip("pydicom", reason="needs the extra fedkr[dicom]")

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = sorted(path for path in SHIPPED.rglob("*") if path.is_file() and path.suffix != ".py")
SMALL = [path for path in FILES if path.suffix == ".dcm" and path.stat().st_size < 8_000]
REASONS = (
    "no DICOM file",
    "its header",
    "holds no pixel data",
    "its pixel data cannot be decoded (",
    "does not say how its pixel data are encoded",
)


def of_pydicom(file):
    """Return the frames that pydicom itself has of a file ``[frames, ...]``; None where it raises."""
    try:
        dataset = pydicom.dcmread(file)
        pixels = dataset.pixel_array
    except Exception:
        return None
    return pixels if int(dataset.get("NumberOfFrames") or 1) > 1 else pixels[None]


@pytest.fixture(scope="module")
def decoder():
    with FrameDecoder() as shared:
        yield shared


@pytest.mark.filterwarnings("ignore")
def test_every_file_that_pydicom_ships_is_decoded_as_it_does_or_refused_with_a_reason(decoder):
    decoded, refused = 0, 0
    for file in FILES:
        wanted = of_pydicom(file)
        long = wanted is not None and len(wanted) > 15
        try:
            found = read_dicom(file, DataConfig(frames="first" if long else "all"), decoder)
        except UnreadableError as error:
            assert wanted is None and str(error).startswith(REASONS), file
            refused += 1
            continue
        dataset = pydicom.dcmread(file)
        assert len(found.frames) + found.further == len(wanted), file
        for index in (0, len(wanted) - 1) if long else range(len(wanted)):
            assert np.array_equal(stored_pixels(Path(file), dataset, index, decoder), wanted[index]), file
        for index, frame in enumerate(found.frames):
            assert frame.pixels.dtype == np.uint8 and frame.pixels.shape[:2] == wanted[index].shape[:2], file
        decoded += 1
    assert decoded > 80 and decoded + refused == len(FILES)


def dicom_file(path, values, **header):
    """Write grey values ``[H, W]`` or ``[frames, H, W]`` as DICOM."""
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = header.pop("syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit, dataset.SamplesPerPixel = dataset.BitsStored - 1, 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = values.tobytes()
    for name, value in header.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def read(folder, values, options=None, **header):
    dicom_file(folder / "x.dcm", values, **header)
    return read_dicom(folder / "x.dcm", DataConfig(**(options or {}))).frames[0].pixels


CT = np.array([[0, 500, 1000, 1040, 1064, 2000]], np.uint16)
RESCALED = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def test_values_are_rescaled_then_windowed(tmp_path):
    # PS3.3, C.11.2.1.2.1: 0 up to c - 0.5 - (w - 1) / 2, 255 above c - 0.5 + (w - 1) / 2.
    found = read(tmp_path, CT, WindowCenter=16, WindowWidth=101, **RESCALED)
    units = CT.astype(float) - 1024
    assert np.array_equal(found, np.rint(np.clip((units - 15.5) / 100 + 0.5, 0, 1) * 255))


def test_of_several_windows_the_first_counts(tmp_path):
    several = read(tmp_path, CT, WindowCenter=[16, 500], WindowWidth=[101, 2000], **RESCALED)
    assert np.array_equal(several, read(tmp_path, CT, WindowCenter=16, WindowWidth=101, **RESCALED))


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_the_other_window_functions(tmp_path, function):
    found = read(tmp_path, CT, WindowCenter=16, WindowWidth=101, VOILUTFunction=function, **RESCALED)
    scale = (CT.astype(float) - 1024 - 16) / 101
    wanted = np.clip(scale + 0.5, 0, 1) if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * scale))
    assert abs(found - wanted * 255).max() <= 0.5001


def test_monochrome1_is_inverted(tmp_path):
    usual = read(tmp_path, CT, WindowCenter=16, WindowWidth=101, **RESCALED)
    inverted = read(tmp_path, CT, WindowCenter=16, WindowWidth=101, PhotometricInterpretation="MONOCHROME1", **RESCALED)
    assert np.array_equal(inverted, 255 - usual)


def test_a_range_is_in_rescaled_units_whatever_the_window(tmp_path):
    found = read(tmp_path, CT, {"range": [-1024, 976]}, WindowCenter=16, WindowWidth=101, **RESCALED)
    assert np.array_equal(found, np.rint(CT * (255 / 2000)))


@pytest.mark.parametrize("options", [{}, {"scale": "image"}])
def test_without_a_window_the_pictures_own_values_count_but_for_padding(tmp_path, options):
    values = np.array([[-2000, 0, 100, 200]], np.int16)
    found = read(tmp_path, values, options, PixelPaddingValue=-2000)
    assert found.ravel().tolist() == [0, 0, 128, 255]
    assert read(tmp_path, values, options).ravel().tolist() == [0, 232, 243, 255]


def test_8_bits_without_a_window_stay(tmp_path):
    values = np.array([[3, 7, 90, 200]], np.uint8)
    assert np.array_equal(read(tmp_path, values), values)
    assert read(tmp_path, values, {"scale": "image"}).ravel().tolist()[::3] == [0, 255]


def test_a_table_of_values_of_interest(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], np.array([200, 100, 50, 0], np.uint16).tobytes()
    found = read(tmp_path, np.array([[0, 1, 2, 9]], np.uint16), VOILUTSequence=[table])
    assert found.ravel().tolist() == [200, 100, 50, 0]


def interest(descriptor, values):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = descriptor, np.asarray(values, np.uint16).tobytes()
    return table


def test_a_table_of_8_bits_can_have_more_than_256_entries(tmp_path):
    table = interest([4096, 0, 8], np.arange(4096) // 16)
    values = np.array([[[0, 255, 256, 1000, 4095]], [[4095, 1000, 256, 255, 0]]], np.uint16)
    dicom_file(tmp_path / "x.dcm", values, VOILUTSequence=[table])
    first, second = read_dicom(tmp_path / "x.dcm", DataConfig(frames="all")).frames
    assert first.pixels.ravel().tolist() == [0, 15, 16, 62, 255]
    assert second.pixels.ravel().tolist() == [255, 62, 16, 15, 0]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_table_counts_for_rescaled_values_too(tmp_path, bits):
    top = 2**bits - 1
    table = interest([4, 10, bits], [top, top // 2, top // 4, 0])
    found = read(
        tmp_path, np.array([[0, 1, 2, 9]], np.uint16), VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=10
    )
    assert abs(found.ravel().astype(int) - [255, 127, 63, 0]).max() <= 1


def test_each_frame_of_an_enhanced_file_has_its_own_rules(tmp_path):
    def group(center):
        window, item = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = center, 2
        item.FrameVOILUTSequence = [window]
        return item

    values = np.broadcast_to(np.array([[0, 100, 200]], np.uint16), (2, 1, 3))
    dicom_file(tmp_path / "x.dcm", values, PerFrameFunctionalGroupsSequence=[group(50), group(150)])
    first = read_dicom(tmp_path / "x.dcm", DataConfig())
    assert (len(first.frames), first.further) == (1, 1)
    frames = read_dicom(tmp_path / "x.dcm", DataConfig(frames="all")).frames
    assert [frame.pixels.ravel().tolist() for frame in frames] == [[0, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLSLossless"])
def test_lossless_compression_changes_no_value(tmp_path, syntax, decoder):
    values = np.random.default_rng(0).integers(0, 4096, (32, 32), dtype=np.uint16)
    dataset = dicom_file(tmp_path / "plain.dcm", values)
    dataset.compress(getattr(pydicom.uid, syntax), generate_instance_uid=False)
    dataset.save_as(tmp_path / "packed.dcm", enforce_file_format=True)
    plain, packed = (read_dicom(tmp_path / f"{name}.dcm", DataConfig(), decoder) for name in ("plain", "packed"))
    assert np.array_equal(plain.frames[0].pixels, packed.frames[0].pixels)


@thorough
def test_a_damaged_file_is_pictures_or_one_line(tmp_path, decoder, rng):
    content = rng.choice(SMALL).read_bytes()
    for _ in range(rng.randint(1, 3)):
        # More often in the header than in the pixels, which are longer.
        at = rng.randint(128, min(len(content), rng.choice([1500, 10**6])) - 1)
        content = content[:at] + rng.randbytes(rng.randint(1, 4)) + content[at + rng.randint(0, 4) :]
    (tmp_path / "x.dcm").write_bytes(damaged(rng, content) if rng.random() < 0.3 else content)

    def work():
        try:
            return read_dicom(tmp_path / "x.dcm", DataConfig(frames=rng.choice(["first", "all"])), decoder)
        except UnreadableError as error:
            raise UserError(f"{tmp_path}: {error}") from None

    accepted, found = read_bounded("DICOM", work)
    assert not accepted or all(frame.pixels.dtype == np.uint8 for frame in found.frames)


# Each damage has CharLS 2.4 compute on and on, or ask for gigabytes, for a picture of 45 x 10 pixels.
STREAMS = {
    "endless": (b"\xff\xda\x00\x08\x01\x01\x00\x02\x00\x00", 1, b"\x57\xfd\xff\x7f"),
    "larger than the header says": (b"\xff\xf7\x00\x0b\x08", 0, b"\xbe\x08\x2d\x31"),
}


@pytest.mark.parametrize("damage", STREAMS)
def test_a_damaged_jpeg_ls_stream_costs_itself_only(tmp_path, decoder, damage):
    [file] = [file for file in FILES if Path(file).name == "JPEGLSNearLossless_08.dcm"]
    content = Path(file).read_bytes()
    before, skipped, other = STREAMS[damage]
    at = content.index(before) + len(before) + skipped
    (tmp_path / "x.dcm").write_bytes(content[:at] + other + content[at + len(other) :])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(UnreadableError, match=r"its pixel data cannot be decoded \(JPEG-LS Lossy"):
        read_dicom(tmp_path / "x.dcm", DataConfig(), decoder)
    assert len(read_dicom(Path(file), DataConfig(), decoder).frames) == 1
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 5


def test_a_deflated_file_is_read_and_a_bomb_is_not_unpacked(tmp_path, decoder, monkeypatch):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    dicom_file(tmp_path / "x.dcm", values, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    content = (tmp_path / "x.dcm").read_bytes()
    assert np.array_equal(read_dicom(tmp_path / "x.dcm", DataConfig(), decoder).frames[0].pixels, values)
    (tmp_path / "x.dcm").write_bytes(content[:-9])
    with pytest.raises(UnreadableError, match="its packed part is cut off"):
        read_dicom(tmp_path / "x.dcm", DataConfig(), decoder)
    bomb = zlib.compress(bytes(20_000_000), wbits=-zlib.MAX_WBITS)
    end = pydicom.filereader.read_file_meta_info(tmp_path / "x.dcm").FileMetaInformationGroupLength + 144
    (tmp_path / "x.dcm").write_bytes(content[:end] + bomb)
    monkeypatch.setattr(dicom, "MOST_INFLATED", 1_000_000)
    tracemalloc.start()
    with pytest.raises(UnreadableError, match="unpacks to more than 1,000,000 bytes"):
        read_dicom(tmp_path / "x.dcm", DataConfig(), decoder)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("error", "passing"), [(OSError(errno.EIO, "I/O error"), True), (MemoryError(), True), (ValueError("odd"), False)]
)
@pytest.mark.parametrize("where", ["pydicom.dcmread", "pydicom.pixels.pixel_array"])
def test_a_failure_of_the_system_is_told_from_damage(tmp_path, monkeypatch, error, passing, where):
    def fail(*args, **options):
        raise error

    dicom_file(tmp_path / "x.dcm", CT)
    monkeypatch.setattr(where, fail)
    with pytest.raises(UnreadableError) as caught:
        read_dicom(tmp_path / "x.dcm", DataConfig())
    assert caught.value.passing is passing


def test_without_pydicom_the_reason_says_what_to_install(tmp_path, monkeypatch):
    dicom_file(tmp_path / "x.dcm", CT)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnreadableError, match=r"pip install 'fedkr\[dicom\]'"):
        read_dicom(tmp_path / "x.dcm", DataConfig())


@pytest.fixture
def hospital(tmp_path):
    """Forty files of twenty patients, as a PACS names them: no ending, or the end of a UID."""
    for index in range(40):
        folder = tmp_path / "scans" / ("healthy", "ill")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = np.full((6, 6), index, np.uint8)
        name = f"IM{index:05}" if index % 3 else f"1.2.840.{index}"
        dicom_file(folder / name, values, PatientID=f"SECRET{index // 2}", PatientName="SECRET^NAME")
    return tmp_path / "scans"


def load(root, cache=None, **options):
    return load_source(DataConfig(name="folder", path=str(root), **options), cache)


def test_the_patients_of_the_headers_are_never_divided(hospital):
    (hospital / "ill" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    source = load(hospital)
    assert source.warnings == [] and len(source.pool) + len(source.test) == 40
    assert not set(source.pool.groups.tolist()) & set(source.test.groups.tolist())
    for part in (source.pool, source.test):
        pairs = {
            level // 2: group
            for level, group in zip(part.images[:, 0, 0, 0].tolist(), part.groups.tolist(), strict=True)
        }
        assert len(set(pairs.values())) == len(pairs) and set(np.bincount(part.groups)) <= {0, 2}
    assert load(hospital, patients="none").pool.groups is None


@pytest.mark.parametrize("named", [(0,), (1,), (0, 1)])
def test_a_table_that_names_some_of_a_patients_files_names_them_all(hospital, named):
    """Two files a patient: the first, the second or both have the table's own name for it."""
    lines = ["path,label,patient,split"]
    for index in range(40):
        kind, name = ("healthy", "ill")[index % 2], f"IM{index:05}" if index % 3 else f"1.2.840.{index}"
        patient = f"P{index // 2}" if index % 2 in named else ""
        lines.append(f"scans/{kind}/{name},{kind},{patient},")
    path = hospital.parent / "table.csv"
    path.write_text("\n".join(lines))
    source = load_source(DataConfig(name="table", path=str(path)))
    assert not set(source.pool.groups.tolist()) & set(source.test.groups.tolist())
    for part in (source.pool, source.test):
        assert set(np.bincount(part.groups)) <= {0, 2}


def test_nothing_of_a_header_is_kept_or_said(hospital, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    whole = (hospital / "ill" / "IM00001").read_bytes()
    (hospital / "ill" / "cut.dcm").write_bytes(whole[:-20])
    (hospital / "ill" / "odd.dcm").write_bytes(whole.replace(b"US\x02\x00\x06\x00", b"US\x02\x00SE", 1))
    (hospital / "ill" / "syntax.dcm").write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.SECRET.1.2.1"))
    source = load(hospital, tmp_path / "decoded", least_usable=0.5)
    assert len(source.left_out) == 3
    kept = b"".join(path.read_bytes() for path in (tmp_path / "decoded").iterdir())
    said = "".join([*source.warnings, *map(str, source.left_out), caplog.text, *capfd.readouterr()])
    assert kept and b"SECRET" not in kept and "SECRET" not in said


def test_what_begins_otherwise_is_no_dicom(tmp_path):
    (tmp_path / "x").write_bytes(bytes(200))
    assert not is_dicom(tmp_path / "x") and not is_dicom(tmp_path / "absent") and not is_dicom(tmp_path)
