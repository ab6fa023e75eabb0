"""Classifiers, by name."""

from fedkr.learning.models.registry import build_classifier

__all__ = ["build_classifier"]
