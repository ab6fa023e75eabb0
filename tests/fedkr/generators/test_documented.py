"""The generator that the documentation shows is one module and one YAML file, and runs."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import fedkr.generators
from fedkr.config import GeneratorConfig
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.learning.job import Job
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline
from fedkr.recycle.pipeline import site_job
from fedkr.stages import StageStore

PAGE = (Path(fedkr.generators.__file__).parent / "README.md").read_text()


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The YAML file's content, its module importable as it says."""
    values = yaml.safe_load(block("yaml"))
    package, module = values["kind"].split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module}.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    yield values
    for name in (package, values["kind"]):
        sys.modules.pop(name, None)


def test_the_shown_generator_makes_a_release(config, site_data, tiny_study, runtime, tmp_path):
    tiny_study.generator.kind, tiny_study.generator.options = config["kind"], config["options"]
    stages = StageStore(tmp_path / "stages")
    pipeline = SitePipeline(
        "site-0", site_data, tiny_study, stages, site_job(tiny_study, "site-0", runtime, SilentProgress())
    )
    release = pipeline.release(1)
    assert release.images.shape[1:] == (8, 8, 1)
    assert release.images.dtype == np.uint8
    assert release.images.std() > 10


def test_the_shown_generator_draws_what_it_was_shown(config, pictures, runtime):
    data = pictures((20, 20))
    settings = GeneratorConfig(config["kind"], options=config["options"])
    generator = build_generator(settings, Shape(1, 8, 2), Job(runtime))
    generator.fit(data, Job(runtime, seed=(0,)), lambda _, made: generator.load(made), None)
    dark, bright = (next(generator.sample(np.full(20, k), {"sigma": 1.0}, 0)).mean() for k in (0, 1))
    assert (dark, bright) == pytest.approx((40, 215), abs=8)


def test_a_wrong_option_of_the_shown_generator_is_refused_by_name(config, runtime):
    with pytest.raises(UserError, match=r"generator\.options\.componets: no such option; did you mean 'components'"):
        build_generator(GeneratorConfig(config["kind"], options={"componets": 3}), Shape(1, 8, 2), Job(runtime))
