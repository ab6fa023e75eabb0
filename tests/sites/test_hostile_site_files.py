"""Any file that is read as a site file is one that the rules below allow, or is refused in one line."""

import json
import math
import re
import unicodedata

import pytest
import yaml

from fedkr.config import Study
from fedkr.errors import UserError
from sites.plain_yaml import read_yaml
from sites.workspace import read_site_file
from tests.hostile import damaged, mutated, read_bounded, thorough

VALUES = {
    "name": "st-mary",
    "workspace": "work",
    "records": "records",
    "data": {"name": "npz", "path": "images.npz", "classes": ["healthy", "ill"], "size": 0, "flip": "none"},
    "device": "cpu",
    "threads": 2,
    "policy": {"allow": ["metrics", "release"], "max_images": 1000, "min_class_count": 5, "exact_counts": False}
    | {"recipients": "server", "near_copies": "redraw", "label_digits": 3, "label_classes": 0, "min_evaluated": 50}
    | {"rate_step": 0.02, "max_models": 100, "privacy": {"epsilon": 4.0, "delta": 1e-6, "required": False}},
    "connection": {"coordinator": "example.org:9092", "authority": "ca.crt", "key": "site.key", "port": 9094}
    | {"publishers": {"anna": "ssh-ed25519 AAAA"}},
    "split": {"seed": 3, "val": 0.1, "test": 0.1, "holdout": 0.2, "coins": False, "canary_kinds": ["noise"]},
    "studies": {"approved": ["0" * 64], "modules": ["my.module"], "hours": 2.0, "gigabytes": 5.0}
    | {"bounds": {"generator.steps": [1, 10], "recycle.balance": ["balanced"]}},
}


class FloatsWithoutPoint(yaml.SafeLoader):
    pass


FloatsWithoutPoint.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), None)

# The rules, written down without the readers' own code.


def whole(least, most):
    return lambda v: type(v) is int and least <= v <= most


def real(least, most):
    return lambda v: type(v) in (int, float) and math.isfinite(v) and least <= v <= most


def one_of(*known):
    return lambda v: v in known


def text(v):
    return type(v) is str and len(v) <= 4096 and v.isprintable()


def flag(v):
    return type(v) is bool


def each(rule):
    return lambda v: type(v) is list and len(v) <= 1000 and all(map(rule, v))


def name(v):
    good = text(v) and 0 < len(v) <= 64 and v == unicodedata.normalize("NFC", v.strip()) and v.lower() != "all sites"
    return good and v[0] != "." and "/" not in v and "\\" not in v


def digest(v):
    return text(v) and len(v) == 64 and {*v} <= {*"0123456789abcdef"}


def bound(v):
    numbers = type(v) is list and len(v) == 2 and all(isinstance(x, int | float) and math.isfinite(x) for x in v)
    return (numbers and v[0] <= v[1]) or (type(v) is list and bool(v) and all(map(text, v)))


BUDGET = {"epsilon": real(1e-320, 100), "delta": real(1e-320, 0.01), "required": flag}


def budget(v):
    return v.keys() <= BUDGET.keys() and all(BUDGET[key](value) for key, value in v.items())


SHARE = real(1e-320, 1 - 1e-16)
RULES = {
    "": {
        "name": name,
        "workspace": lambda v: text(v) and v,
        "records": text,
        "device": text,
        "threads": whole(1, 1024),
    },
    "data": {"name": text, "root": text, "path": text, "size": whole(0, 4096), "download": flag, "classes": each(text)}
    | {"flip": one_of("none", "horizontal", "both"), "limit": whole(0, 2**53), "test_fraction": real(-1e38, 1e38)},
    "policy": {"allow": each(one_of("metrics", "release", "weights")), "max_images": whole(1, 10**7)}
    | {"min_class_count": whole(1, 10**7), "exact_counts": flag, "recipients": one_of("server", "federation")}
    | {"near_copies": one_of("redraw", "refuse", "allow"), "label_digits": whole(0, 10**7)}
    | {"label_classes": whole(0, 10**7), "min_evaluated": whole(1, 10**7), "rate_step": real(0, 0.25)}
    | {"max_models": whole(1, 10**7), "privacy": lambda v: type(v) is dict and budget(v)},
    "connection": {"coordinator": text, "authority": text, "key": text, "port": whole(1, 65_535)}
    | {"publishers": lambda v: type(v) is dict and all(text(k) and text(x) for k, x in v.items())},
    "split": {"seed": whole(-(2**53), 2**53), "val": SHARE, "test": SHARE, "holdout": SHARE, "coins": flag}
    | {
        "min_images": whole(0, 10**7),
        "canary_kinds": each(one_of("mislabelled", "noise", "near-duplicate", "outlier")),
    },
    "studies": {"approved": each(digest), "modules": each(text), "hours": real(1e-320, 1e38)}
    | {"gigabytes": real(1e-320, 1e38), "bounds": lambda v: type(v) is dict and all(map(bound, v.values()))},
}


def is_site_file(values):
    groups = {group: values[group] for group in RULES if group in values}
    groups[""] = {name: value for name, value in values.items() if name not in RULES}
    known = all(key in RULES[group] and RULES[group][key](v) for group, own in groups.items() for key, v in own.items())
    shares, policy = SHARES | groups.get("split", {}), groups.get("policy", {})
    exact = policy.get("exact_counts", False) or policy.get("rate_step", 0.02) > 0
    required = policy.get("privacy", {}).get("required", False)
    data = groups.get("data", {})
    single = data.get("name") in ("folder", "table")
    fixed = data.get("classes") and (not single or (data.get("size") and data.get("channels")))
    exposed = policy.get("exact_counts", False) or "weights" in policy.get("allow", [])
    sound = not required or (fixed and not exposed)
    return (
        known
        and exact
        and sound
        and {"name", "workspace", "data"} <= values.keys()
        and sum(map(shares.get, SHARES)) < 1
    )


SHARES = {"val": 0.15, "test": 0.15, "holdout": 0.15}
PARTS = [
    "&a [*a, *a]",
    "*a",
    "<<: *a",
    "!!int a",
    "!!float ''",
    "!!bool x",
    "!!timestamp x",
    "2001-99-99",
    "? [a]",
    "\t",
    "'",
]
PARTS += [
    "[" * 3000,
    "{a: " * 500,
    "9" * 5000,
    "1:99:99",
    "0x",
    "!!python/object:os.system x",
    "\ud800",
    "\0",
    "~nobody/x",
]
PARTS += [
    "!!binary x",
    "!!set {a}",
    "!!omap [a]",
    "=",
    "---\n",
    "...",
    "%YAML 9.9\n",
    "!<a",
    "|",
    "name: x\n",
    "\ufeff",
]


def content(rng):
    kind = rng.randrange(10)
    if kind < 6:
        # JSON is YAML, and holds what the writer of YAML would refuse to write.
        return json.dumps(mutated(rng, VALUES)).encode()
    written = yaml.safe_dump(VALUES)
    if kind == 6:
        return damaged(rng, written.encode())
    if kind == 7:
        return damaged(rng, written).encode(errors="surrogatepass")
    at = rng.choice([i for i, c in enumerate(written) if c in " \n"]) + 1
    return (written[:at] + rng.choice(PARTS) + written[at:]).encode(errors="surrogatepass")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site.yaml"


def read(path):
    file = read_site_file(path)
    file.studies.outside(Study())
    return file


@thorough
def test_what_is_read_as_a_site_file_is_one(rng, path):
    path.write_bytes(content(rng))
    accepted, _ = read_bounded("site file", read, path)
    assert not accepted or is_site_file(yaml.load(path.read_bytes().decode(), FloatsWithoutPoint))


def test_the_rules_of_this_test_allow_the_site_file_that_it_starts_from(path):
    path.write_text(yaml.safe_dump(VALUES))
    assert is_site_file(VALUES) and read(path).threads == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nname: b\n", "line 2: name stands twice"),
        ("policy: {allow: [release]}\nname: a\n'policy': {}\n", "line 3: policy stands twice"),
        ("policy:\n  privacy: {required: true}\n  privacy: {}\n", "line 3: privacy stands twice"),
        ("policy: {allow: [release]}\n<<: {policy: {}}\n", "policy stands twice"),
    ],
)
def test_what_stands_twice_is_refused_as_the_first_would_be_gone(path, text, line):
    path.write_text(text)
    with pytest.raises(UserError, match=line):
        read_yaml(path)


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("-2E3", -2e3), ("1.0e-5", 1e-5), ("e5", "e5"), ("5", 5)])
def test_a_number_may_be_written_without_a_point(path, text, value):
    path.write_text(f"value: {text}\n")
    found = read_yaml(path)["value"]
    assert found == value and type(found) is type(value)
