"""The audit of a classifier that was trained elsewhere."""
