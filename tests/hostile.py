"""Hostile input for readers: documents, texts, arrays and records that are wrong in a few places.

A reader returns, or ends in a UserError of one line, within a second (ten the first time) and 100 MB; what it accepts
is held against the rules that its test writes down anew. Hypothesis draws the seed of each case: a case that it drew
part by part would cost ten times what most readers do. ``FEDKR_HYPOTHESIS_CASES`` sets how many cases each property is
tried on, and ``FEDKR_HYPOTHESIS_LOG`` names a file that gets a line of JSON for each reader.
"""

import atexit
import copy
import json
import math
import os
import random
import resource
import struct
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedkr.errors import UserError

CASES = int(os.environ.get("FEDKR_HYPOTHESIS_CASES", "15"))
SECONDS, BYTES = 1.0, 100_000_000
# A reader's first case also loads the modules that it needs.
FIRST_SECONDS = 10.0
PAGE = os.sysconf("SC_PAGE_SIZE")
TALLY = {}


def thorough(prop):
    """Try a property with the fixture ``rng``, a generator of random numbers for each case."""
    tried = given(rng=st.builds(random.Random, st.integers(0, 2**64 - 1)))(prop)
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    # There is nothing to be had from other seeds once one has failed.
    phases = [Phase.explicit, Phase.generate]
    return settings(max_examples=CASES, deadline=None, database=None, phases=phases, suppress_health_check=checks)(
        tried
    )


def read_bounded(reader, work, *arguments):
    """Run ``work`` on hostile input; return whether it accepted it, and what it returned."""
    tally = TALLY.setdefault(reader, {"cases": 0, "accepted": 0, "slowest": 0.0, "bytes": 0})
    resident, highest = _resident(), _highest()
    accepted, found, started = True, None, time.process_time()
    try:
        found = work(*arguments)
    except UserError as error:
        accepted = False
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 5000
    # Where the process has never held as much before, this case is the reason.
    grown = _highest() - resident if _highest() > highest else 0
    seconds = time.process_time() - started
    most = SECONDS if tally["cases"] else FIRST_SECONDS
    tally["cases"] += 1
    tally["accepted"] += accepted
    tally["slowest"], tally["bytes"] = max(tally["slowest"], seconds), max(tally["bytes"], grown)
    assert seconds < most, f"{reader}: {seconds:.2f} s of processor time"
    assert grown < BYTES, f"{reader}: {grown:,} bytes more than before"
    return accepted, found


def _highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@atexit.register
def write_tally():
    if (log := os.environ.get("FEDKR_HYPOTHESIS_LOG")) and TALLY:
        with Path(log).open("a") as file:
            file.writelines(json.dumps({"reader": reader} | row) + "\n" for reader, row in sorted(TALLY.items()))


def nested(depth, kind):
    value = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


NUMBERS = [0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 1e300, -1e300, 1e-300, math.nan, math.inf, -math.inf, True, False]
NUMBERS += [2**31, 2**53, 2**53 + 1, 2**63, 10**400, 1001, 10_001, 10**7]
TEXTS = [
    "",
    "a" * 121,
    "a" * 5000,
    "\x1b[2Ja",
    "a\nb",
    "a\0b",
    "\ud800",
    "..",
    "../a",
    "~nobody/a",
    "os.system",
    "__class__",
]
TEXTS += ["all sites", "1", "nan", "none", "test", "train", "fedavg", "release", "2024-01-01", "&a", "*a", "!!int a"]
LARGE = [
    [0] * 2000,
    ["a"] * 1200,
    {str(i): i for i in range(1200)},
    "a" * 200_000,
    nested(30, "list"),
    nested(300, "list"),
]
LARGE += [nested(200, "dict"), [[1.0, 2.0]] * 600, [[]], [{}], {}, [], None]
JSON_PARTS = [
    "[" * 2000,
    '{"a":' * 2000,
    "1" * 5000,
    "NaN",
    "-Infinity",
    '"\\ud800"',
    "null",
    "{}",
    '"site": "x", ',
    "1e999",
]


def text(rng):
    """Return a known bad text, or a few characters of any kind."""
    if rng.random() < 0.5:
        return rng.choice(TEXTS)
    return "".join(chr(rng.randrange(rng.choice([128, 0x3000, 0x110000]))) for _ in range(rng.randrange(7)))


def number(rng):
    """Return a known bad number, any float by its bits, or a whole number of any length."""
    kind = rng.randrange(4)
    if kind == 0:
        return struct.unpack("d", rng.randbytes(8))[0]
    return rng.randint(-(2 ** rng.randrange(70)), 2 ** rng.randrange(70)) if kind == 1 else rng.choice(NUMBERS)


def value(rng, depth=0):
    """Return any value that JSON has."""
    kind = rng.randrange(10)
    if kind == 0 and depth < 3:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 1 and depth < 3:
        return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    if kind == 2:
        # A copy: what is put into itself has no end.
        return copy.deepcopy(rng.choice(LARGE[-5:] if rng.random() < 0.7 else LARGE))
    return number(rng) if kind < 6 else text(rng)


def places(document, found=None, depth=0):
    """Return each (group or list, name or index) in a document."""
    found = [] if found is None else found
    if isinstance(document, dict | list) and len(found) < 5000 and depth < 20:
        for name, item in list(document.items() if isinstance(document, dict) else enumerate(document)):
            found.append((document, name))
            places(item, found, depth + 1)
    return found


def mutated(rng, document):
    """Change a valid document in up to three places; one case in some twelve stays as it is."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3])):
        if found := places(document):
            _change(rng, *rng.choice(found), found)
    return document


def _change(rng, group, name, found):
    kind, old = rng.choice(["value", "value", "drop", "more", "wrap", "nudge", "nudge", "swap"]), group[name]
    if kind == "drop":
        del group[name]
    elif kind == "more" and isinstance(group, dict):
        group[text(rng)] = value(rng)
    elif kind == "more":
        group.append(copy.deepcopy(old) if rng.random() < 0.5 else value(rng))
    elif kind == "wrap":
        group[name] = rng.choice([[old], {"a": old}, str(old)])
    elif kind == "nudge" and isinstance(old, int | float):
        group[name] = rng.choice([1, -1, 0.5, 0]) + old * rng.choice([1, 1, 2, -1, 1000])
    elif kind == "swap":
        other, at = rng.choice(found)
        group[name] = copy.deepcopy(other[at])
    else:
        group[name] = value(rng)


def damaged(rng, content):
    """Overwrite, cut, drop or insert a few parts of a text, or of bytes."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randint(0, len(content)), rng.randrange(8)
        if isinstance(content, bytes):
            patch = rng.randbytes(length)
        else:
            patch = rng.choice(JSON_PARTS) if rng.random() < 0.3 else text(rng)[:length]
        kind = rng.choice(["write", "insert", "cut", "drop"])
        end = {"write": at + len(patch), "insert": at, "cut": len(content), "drop": at + length}[kind]
        content = content[:at] + (content[:0] if kind == "drop" else patch) + content[end:]
    return content


def json_text(rng, document):
    """Return JSON of a mutated document, a damaged text of the valid one, or anything."""
    kind = rng.randrange(12)
    if kind < 8:
        return json.dumps(mutated(rng, document))
    if kind < 11:
        return damaged(rng, json.dumps(document))
    return rng.choice(JSON_PARTS) if rng.random() < 0.5 else text(rng)


HEADERS = [b"(" * 900, b"{" * 900, b"{'descr': '<f4'}", b"{'descr': (('<f4',),), 'fortran_order': 1, 'shape': ()}"]
HEADERS += [b"9" * 9000, b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }", b"\xff\xfe", b"-" * 9000]
TYPES = [
    "|u1",
    "<i8",
    "<f2",
    "<f4",
    "<f8",
    "<c8",
    "|b1",
    "<U3",
    "|S2",
    "<M8[s]",
    ">f4",
    ">i2",
    "|V5",
    "|O",
    "|V0",
    "<U0",
]
SIDES = [0, 1, 2, 8, -1, 2**31, 2**40, 2**62, 10**30, True, 1.5, "x"]


def array(rng, usual):
    """Return an array of Flower's whose numbers, shape, type, header, bytes or format are wrong."""
    values, kind = usual.numpy(), rng.choice(["same", "numbers", "shape", "type", "header", "bytes", "format"])
    if kind == "numbers" and values.size:
        # As float64, which the wire carries too, any number fits.
        changed = np.array(values, np.float64 if rng.random() < 0.3 else values.dtype)
        with np.errstate(all="ignore"):
            other = np.float64(rng.choice([0, 1, -1, 0.5, 7, 1e30, 1e300, math.nan, math.inf])).astype(changed.dtype)
        changed.reshape(-1)[rng.randrange(values.size)] = other
        return Array(changed)
    if kind == "shape":
        shapes = [values.ravel(), values[None], values.T, np.stack([values, values]), values.ravel()[:1]]
        return Array(np.ascontiguousarray(rng.choice(shapes)))
    if kind == "type":
        return of_bytes(usual, npy(values.shape, rng.choice(TYPES), bytes(values.nbytes)))
    if kind == "header":
        shape = tuple(rng.choice(SIDES) for _ in range(rng.randrange(6)))
        lie = npy(shape, rng.choice(TYPES), rng.randbytes(rng.randrange(17)), rng.choice([None, rng.choice(HEADERS)]))
        return of_bytes(usual, lie)
    if kind == "bytes":
        return of_bytes(usual, damaged(rng, usual.data))
    if kind == "format":
        content = rng.choice([b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x04N.", usual.data])
        stype = rng.choice(["torch", "", "numpy.ndarray", "numpy.ndarray"])
        return Array(dtype="float32", shape=(2**40,), stype=stype, data=content)
    return usual


def npy(shape, dtype, data, header=None):
    """Return an array file whose header promises ``shape`` and ``dtype``, or is any other."""
    if header is None:
        header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def of_bytes(usual, data):
    return Array(dtype=usual.dtype, shape=usual.shape, stype=usual.stype, data=data)


def figure(rng):
    """Return what a record of metrics can hold."""
    kind, bounded = rng.randrange(8), [v for v in NUMBERS if type(v) is float or (type(v) is int and abs(v) < 2**63)]
    if kind == 0:
        return rng.choice([[1] * 4, [0] * 9, [1, 2, 3], [], [2**62] * 4, [-1], [1] * 40_000])
    if kind == 1:
        return [struct.unpack("d", rng.randbytes(8))[0] for _ in range(rng.randrange(5))]
    return rng.choice(bounded)


def setting(rng):
    """Return what a record of settings can hold."""
    kind = rng.randrange(8)
    if kind == 0:
        return [text(rng) for _ in range(rng.randrange(4))]
    others = [b"", b"\xff", True, False, [True], [b"a"], ["teacher"], ["student", "update"], "student", "val", "[]"]
    return text(rng) if kind < 3 else rng.choice(others) if kind < 5 else figure(rng)


def entries(rng, usual, new):
    """Drop, replace or add up to two entries of a record; ``new`` makes a value that its kind may hold."""
    found = dict(usual)
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        name = rng.choice([*found, *found, "test/auc", "val/confusion", "seconds", "proximal-mu", "kind", text(rng)])
        if rng.random() < 0.8:
            found[name] = new(rng)
        else:
            found.pop(name, None)
    return found


def contents(rng, usual, documents=()):
    """Return a message's content with one record that is missing, of another kind or wrong within.

    ``documents`` are the names of records that hold JSON.
    """
    found, chosen = dict(usual), rng.choice(sorted(usual))
    record, kind = usual[chosen], rng.choice(["within"] * 12 + ["missing", "kind"])
    if kind == "missing":
        del found[chosen]
    elif kind == "kind":
        found[chosen] = rng.choice([MetricRecord({"x": 1.0}), ConfigRecord({"json": b"{}"}), ArrayRecord({})])
    elif isinstance(record, ArrayRecord):
        arrays = dict(record)
        name = rng.choice(sorted(arrays))
        arrays[name] = array(rng, arrays[name])
        if rng.random() < 0.1:
            arrays["more"] = arrays.pop(name)
        found[chosen] = ArrayRecord(arrays)
    elif isinstance(record, MetricRecord):
        found[chosen] = MetricRecord(entries(rng, record, figure))
    elif chosen in documents:
        found[chosen] = ConfigRecord({"json": json_text(rng, json.loads(str(record["json"])))})
    else:
        found[chosen] = ConfigRecord(entries(rng, record, setting))
    return RecordDict(found)
