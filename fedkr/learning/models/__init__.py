"""Classifiers, by name."""

from fedkr.learning.models.registry import (
    build_as,
    build_classifier,
    build_student,
    check_weights,
    load_classifier,
    load_weights,
    norm_of,
)
