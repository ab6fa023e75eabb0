"""``biggan_deep``: an adversarial generator (Brock et al. 2019), as GaFi has it."""

from fedkr.generators.biggan_deep.generator import Generator, Options
