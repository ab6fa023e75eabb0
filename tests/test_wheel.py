"""The wheel alone, away from the source tree: it holds all that a study needs."""

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fedkr", "server", "sites", "simulations", "configs")
FILES = ("pyproject.toml", "README.md", "LICENSE", "fedkr_app.py")
STUDY = (
    "backend=inline", "audit=off", "strategy.compare=[local]", "data.limit=150", "federation.sites=2", "device=cpu",
    "student.arch=resnet8", "student.width=4", "student.steps=2", "strategy.steps=2", "run_dir=run",
)  # fmt: skip


def succeed(*command, folder):
    ended = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment that holds the wheel, and sees this one's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    if importlib.util.find_spec("setuptools") is None:
        build.remove("--no-build-isolation")
    # Built from a copy: setuptools leaves its build folder in the tree, and reads what an earlier one left there.
    source = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    succeed(*build, "--wheel-dir", str(folder), str(source), folder=folder)
    (wheel,) = folder.glob("*.whl")
    succeed(sys.executable, "-m", "venv", "--without-pip", "env", folder=folder)
    python = folder / "env" / "bin" / "python"
    own = succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--target", own]
    succeed(*install, str(wheel), folder=folder)
    # A plain path, whose own .pth files are not read: the editable install of this tree stays out of sight.
    (Path(own) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_every_package_comes_from_the_wheel(python, tmp_path):
    names = [*FOLDERS, "fedkr_app"]
    script = f"import importlib.util\nfor name in {names}: print(importlib.util.find_spec(name).origin)"
    files = succeed(python, "-c", script, folder=tmp_path).split()
    assert len(files) == len(names) and all(Path(file).is_relative_to(python.parents[1]) for file in files)


def test_what_made_the_published_figures_is_not_in_the_wheel(python, tmp_path):
    script = "import importlib.util\nprint(importlib.util.find_spec('simulations.evidence'))"
    assert succeed(python, "-c", script, folder=tmp_path).strip() == "None"


def test_the_wheel_runs_a_study_from_another_folder(python, tmp_path):
    succeed(python, "-m", "fedkr.cli", "simulate", *STUDY, folder=tmp_path)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["name"] for row in results["strategies"]] == ["local"]
    # The page's style is a file of the package.
    assert "<style>" in (tmp_path / "run" / "report.html").read_text()
