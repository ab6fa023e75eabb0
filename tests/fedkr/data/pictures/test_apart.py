"""Frames decoded in a process of their own: what happens to it is the file's fault, or the system's, and not both."""

import os
import resource
import signal
import struct
import sys
from pathlib import Path

import pytest

from fedkr import frame_decoder
from fedkr.config import DataConfig
from fedkr.data.pictures.apart import FrameDecoder
from fedkr.data.pictures.dicom import read_dicom
from fedkr.data.pictures.frame import UnreadableError

pydicom = pytest.importorskip("pydicom", reason="needs the extra fedkr[dicom]")

PACKED = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small_RLE.dcm"


def with_trailing_padding(path, size):
    """Write the packed file with so many bytes behind its pixels, which take no room on the disk."""
    header = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, size)
    path.write_bytes(PACKED.read_bytes() + header)
    os.truncate(path, path.stat().st_size + size)


def test_a_file_larger_than_the_limit_of_the_frame_before_is_read(tmp_path):
    with_trailing_padding(tmp_path / "large.dcm", frame_decoder.BYTES * 3 // 2)
    with FrameDecoder() as decoder:
        small = decoder.frame(PACKED, 0, "pydicom")
        assert (decoder.frame(tmp_path / "large.dcm", 0, "pydicom") == small).all()


def test_limits_hold_inside_alone():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ValueError, match="damaged"), frame_decoder.limits(1 << 40, 1000.0):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] >= 1 << 40
        assert 0 < signal.getitimer(signal.ITIMER_PROF)[0] < 1001
        raise ValueError("damaged")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def request(file, index=0):
    return {"file": os.fsencode(file).hex(), "index": index, "plugin": "pydicom"}


@pytest.mark.parametrize(("where", "passing"), [("pydicom.dcmread", True), ("pydicom.pixels.pixel_array", False)])
def test_memory_that_lacks_is_the_systems_fault_but_beyond_a_decoders_limit_the_files(monkeypatch, where, passing):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(where, fail)
    assert frame_decoder.answer(request(PACKED), frame_decoder.LastFile()) == {
        "error": "MemoryError",
        "passing": passing,
    }


def test_a_file_is_parsed_once_for_all_its_frames_and_again_when_it_changes(tmp_path, monkeypatch):
    parse, parsed, last = pydicom.dcmread, [], frame_decoder.LastFile()
    monkeypatch.setattr(pydicom, "dcmread", lambda file: parsed.append(file) or parse(file))
    file, other = tmp_path / "x.dcm", tmp_path / "y.dcm"
    for path in (file, other):
        path.write_bytes(PACKED.read_bytes())
    frames = [frame_decoder.answer(request(file), last) for _ in range(3)]
    assert parsed == [file] and (frames[0] == frames[2]).all()
    os.utime(file, ns=(1, 1))
    for asked in (file, other, file, file):
        frame_decoder.answer(request(asked), last)
    assert parsed == [file, file, other, file]


def test_nothing_of_the_current_folder_is_run(tmp_path, monkeypatch):
    for name in ("json", "fedkr", "numpy", "pydicom"):
        (tmp_path / f"{name}.py").write_text("open('was-run', 'w')")
    monkeypatch.chdir(tmp_path)
    assert len(read_dicom(PACKED, DataConfig()).frames) == 1
    assert not (tmp_path / "was-run").exists()


ENDS = {
    "does not begin": ("exit 1", True),
    "begins otherwise": ("echo hello; read line", True),
    "killed": ("printf '%s\\n' \"$READY\"; read line; kill -KILL $$", True),
    "crashed": ("printf '%s\\n' \"$READY\"; read line; kill -SEGV $$", False),
    "out of time": ("printf '%s\\n' \"$READY\"; read line; kill -PROF $$", False),
    "gave up": ("printf '%s\\n' \"$READY\"; read line; exit 1", False),
}


@pytest.mark.parametrize("end", ENDS)
def test_how_the_process_ended_says_whose_fault_it_was(tmp_path, monkeypatch, end):
    commands, passing = ENDS[end]
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nulimit -c 0\n{commands}\n")
    program.chmod(0o700)
    monkeypatch.setenv("READY", frame_decoder.READY.decode().strip())
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(UnreadableError, match=r"its decoder (was ended by the system|ended)") as caught:
        read_dicom(PACKED, DataConfig())
    assert caught.value.passing is passing
