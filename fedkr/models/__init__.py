"""Classifiers, by name."""

from fedkr.models.registry import build_classifier

__all__ = ["build_classifier"]
