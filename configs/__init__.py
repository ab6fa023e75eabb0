"""Hydra groups: every choice of a study as data, shipped in the wheel."""
