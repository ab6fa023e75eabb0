"""Benchmarks: measured claims about time and memory, each with the command that made its figure."""
