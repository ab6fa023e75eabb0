"""Differential privacy: what noise a guarantee takes, what several together come to, and the noise itself."""
