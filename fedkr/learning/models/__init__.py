"""Classifiers, by name."""

from fedkr.learning.models.registry import (
    build_classifier,
    check_weights,
    load_classifier,
    load_weights,
    norm_of,
)
