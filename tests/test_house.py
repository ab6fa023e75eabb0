"""The rules of the house that import-linter does not keep."""

import ast
import shutil
import subprocess
import sys
import tomllib
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


def test_the_two_apps_start_without_the_libraries_that_few_messages_need() -> None:
    heavy = ("sklearn", "scipy.stats", "scipy.special", "pandas", "matplotlib", "diffusers", "torchvision", "datasets")
    script = f"import sys, sites.app, server.app; print([name for name in {heavy!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout == "[]\n", ended.stderr


def test_each_room_of_the_method_has_its_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = {name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")}
    rooms = {".".join(name.split(".")[:2]) for path in MODULES if (name := dotted(path)).startswith("fedkr.")}
    assert rooms <= floors


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, folder / floor, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("fedkr.data.images", "fedkr.learning.training"),
        ("fedkr.audit.attacks.rmia", "fedkr.learning.training"),
        ("fedkr.report.tables", "fedkr.wire"),
        ("sites.policy", "server.composition"),
        ("simulations.exits", "fedkr.cli"),
    ],
)
def test_an_import_that_points_upwards_breaks_a_contract(tree: Path, below: str, above: str) -> None:
    path = tree.joinpath(*below.split(".")).with_suffix(".py")
    kept = path.read_text(encoding="utf-8")
    path.write_text(f"{kept}\nimport {above}\n", encoding="utf-8")
    ended = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=tree, capture_output=True, text=True, check=False
    )
    path.write_text(kept, encoding="utf-8")
    assert ended.returncode == 1 and f"{below} -> {above}" in ended.stdout


def test_no_module_is_named_for_saying_nothing() -> None:
    assert {path.stem for path in MODULES} & {"utils", "helpers", "common", "misc"} == set()
