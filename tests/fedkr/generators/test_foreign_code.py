"""Stage keys name the code of generators that are not of this package."""

import sys

import pytest

from fedkr.config import GeneratorConfig
from fedkr.generators.base import foreign_code

MODULE = "class Options:\n    pass\n\n\nclass Generator:\n    pass\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A generator that is a package of two files."""
    folder = tmp_path / "keyed_root" / "drawing"
    folder.mkdir(parents=True)
    (tmp_path / "keyed_root" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("from keyed_root.drawing.parts import Generator, Options\n")
    (folder / "parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "keyed_root"]:
        del sys.modules[name]


def test_any_file_of_a_foreign_package_is_part_of_the_key_in_mixtures_too(package):
    alone = GeneratorConfig("keyed_root.drawing")
    mixed = GeneratorConfig("mixture", options={"members": [{"kind": "edm"}, {"kind": "keyed_root.drawing"}]})
    nested = GeneratorConfig("mixture", options={"kind": "mixture", "options": {"kind": "keyed_root.drawing"}})
    before = [foreign_code(config) for config in (alone, mixed, nested)]
    assert before[0] and before == [before[0]] * 3
    (package / "parts.py").write_text(MODULE + "# changed\n")
    assert foreign_code(alone) != before[0]


def test_options_of_built_in_generators_are_not_taken_for_modules():
    assert foreign_code(GeneratorConfig("edm", options={"kind": "unet.v2", "members": None})) == []
