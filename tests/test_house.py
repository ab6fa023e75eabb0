"""The rules of the house that import-linter does not keep."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("fedkr", "sites", "server", "simulations", "configs")
MODULES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
# The wire speaks Flower's records; the command line opens the floors above.
ABOVE = {"fedkr.wire", "fedkr.cli"}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=[dotted(path) for path in MODULES])
def test_each_module_says_what_room_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_method_works_without_flower_ray_and_hydra() -> None:
    method = [name for path in MODULES if (name := dotted(path)).startswith("fedkr") and name not in ABOVE]
    blocked = ("flwr", "ray", "hydra", "omegaconf")
    script = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"for name in {method!r}: importlib.import_module(name)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_no_module_is_named_for_saying_nothing() -> None:
    assert {path.stem for path in MODULES} & {"utils", "helpers", "common", "misc"} == set()
