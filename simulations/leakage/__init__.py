"""``fedkr leakage``: utility and leakage against the amount of synthetic data."""
