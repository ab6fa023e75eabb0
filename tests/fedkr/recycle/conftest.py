"""Val splits of a few images, which choose all the same: how, is what most of these tests are about."""

import pytest

CHOOSING = "fedkr.config.protocol.LEAST_TO_CHOOSE"


@pytest.fixture(autouse=True)
def few_images_choose(monkeypatch):
    """Let val choose however few images it has."""
    monkeypatch.setattr(CHOOSING, 1)


@pytest.fixture
def too_few_images(monkeypatch, few_images_choose):
    """Make the site's val split one image too small to choose."""
    monkeypatch.setattr(CHOOSING, 16)
