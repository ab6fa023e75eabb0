"""Attacks: arrays in, one score an image out."""
