"""Digests that decide what is one and the same: so long that nobody makes two that meet."""

import numpy as np
import torch

from fedkr import fingerprint as module
from fedkr import wire
from fedkr.config import Study
from fedkr.data.images import ImageSet, content_digest
from fedkr.fingerprint import array_digest, fingerprint
from fedkr.foreign import module_digest
from fedkr.stages import StageStore, code_version


def test_digests_are_whole():
    images = ImageSet(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64), ("a", "b"))
    found = [fingerprint({"seed": 1}), array_digest([np.zeros(3)]), content_digest(images), code_version()]
    found += [Study().identity(), wire.weights_digest({"w": torch.zeros(2)}), module_digest(module)]
    assert {len(digest) for digest in found} == {64} and len({*found}) == len(found)


def test_a_stages_file_has_128_bits_of_its_digest(tmp_path):
    name = StageStore(tmp_path).path("scores-student", {"study": Study().identity()}).stem
    assert name.startswith("scores-student-") and len(name.removeprefix("scores-student-")) == 32


def test_only_the_name_of_a_run_folder_has_a_short_one():
    study = Study(seed=3)
    assert study.folder_name().endswith(f"-seed3-{study.identity()[:10]}")
