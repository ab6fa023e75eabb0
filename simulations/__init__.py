"""Entry points on one machine or a Ray cluster: the study, its oracle, exports and benchmarks."""
