"""Scripts that make the published figures; not part of the wheel."""
