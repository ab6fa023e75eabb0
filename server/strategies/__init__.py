"""Strategies of the comparison: sharing releases (fedkr) and sharing weights (Flower's own)."""
