"""``edm``: a diffusion generator (Karras et al. 2022)."""

from fedkr.generators.edm.generator import Generator, Options
