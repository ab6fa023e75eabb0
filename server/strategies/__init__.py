"""Strategies of the comparison: sharing releases (fedkr), sharing weights (Flower's own), and sharing nothing (local)."""
