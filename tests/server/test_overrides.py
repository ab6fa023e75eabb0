"""Overrides as people type them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import Study
from fedkr.errors import UserError
from server.composition import compose_study
from server.overrides import with_texts
from simulations.study.command import differences


def read(value, sweep=False):
    """Return what Hydra reads behind ``data.path=``: one value, or those of a sweep."""
    (override,) = OverridesParser.create().parse_overrides(with_texts([f"data.path={value}"], sweep))
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return [getattr(value, "text", value).strip("'") if sweep else getattr(value, "text", value) for value in values]


NAMES = [
    "a,b.npz", "a=b.npz", "images (1).npz", "größe.npz", "肺.npz", "my images.npz", "o'brien.npz", "[v2].npz",
    "{x}.npz", "a:b.npz", "a#b.npz", "~x.npz", "a&b.npz", "2024.npz", "a%20b.npz", "a\\b.npz", "a\\", " x.npz ", "???",
    "glob(1)", "1e5", "123", "null", "on", "true", "nan", "0x1", "",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_value_of_a_text_option_is_that_text(name):
    assert read(name) == [name]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(lambda text: text[:1] not in "'\""))
def test_any_text_is_read_as_itself(text):
    assert read(text) == [text]


def test_a_composed_study_has_the_odd_name():
    own = ["dataset=npz", "facts.images=900", "data.path=ü=[1],(2).npz"]
    study = compose_study([*own, "run_dir=1e5", "data.root=null"])
    assert (study.data.path, study.run_dir, study.data.root) == ("ü=[1],(2).npz", "1e5", "null")


def test_quotes_and_interpolations_go_on_to_be_hydras():
    study = compose_study(["data.path='a b'", "run_dir=study-${seed}", 'out="${data.path}"', "seed=3"])
    assert (study.data.path, study.run_dir, study.out) == ("a b", "study-3", "a b")
    assert compose_study([r"data.path=\${x}.npz"]).data.path == "${x}.npz"
    for wrong in ("${x}.npz", "${oops"):
        with pytest.raises(UserError, match=r"data\.path: .*; write \\\$\{ where a text itself holds \$\{") as error:
            compose_study([f"data.path={wrong}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "values"),
    [("a,b", ["a", "b"]), ("1e5,größe (1)", ["1e5", "größe (1)"]), ("choice(a,b)", ["a", "b"]), ("'a,b'", ["a,b"])],
)
def test_commas_separate_the_values_of_a_sweep(value, values):
    assert read(value, sweep=True) == values


def test_a_list_that_hydra_cannot_read_is_answered_with_how_to_quote():
    with pytest.raises(UserError, match="put texts of a list in quotes"):
        compose_study(["data.classes=[größe,klein]"])
    assert compose_study(['data.classes=["größe","a, b"]']).data.classes == ["größe", "a, b"]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_an_option_is_written_as_it_would_have_to_be_typed(name):
    study = Study()
    study.data.path = name
    (written,) = differences(study, Study())
    assert read(written.removeprefix("data.path=")) == [name]


def test_a_study_of_odd_names_is_composed_by_the_options_that_it_is_written_with():
    study = Study()
    study.data.path, study.data.classes = "'${x}'", [*NAMES, "${x}"]
    composed = compose_study(list(differences(study, Study())))
    assert (composed.data.path, composed.data.classes) == ("'${x}'", [*NAMES, "${x}"])
