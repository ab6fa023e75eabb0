"""The centralised oracle: one training on the images of all sites."""

import dataclasses

import numpy as np

from fedkr.config import Study, pipeline_steps
from fedkr.data import ImageSet, SiteData
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from simulations.study import centralised


def images(count):
    return ImageSet(np.zeros((count, 4, 4, 1), np.uint8), np.arange(count) % 2, ("a", "b"))


def test_it_may_take_the_steps_of_a_site_and_of_a_student_of_all(monkeypatch):
    asked, study, site = [], Study(), SiteData(images(6), images(2), images(0), images(0))
    monkeypatch.setattr(centralised, "train_tuned", lambda study, train, val, *_: asked.append((study, train, val)))
    centralised.train(study, [site] * 3, Job(Runtime.choose("cpu", "float32", 1)))
    ((of_all, train, val),) = asked
    assert (len(train), len(val)) == (18, 6)
    assert dataclasses.replace(of_all, student=study.student) == study
    assert pipeline_steps(of_all, len(val)) == 700 + 500 + 100 + 3 * 500
