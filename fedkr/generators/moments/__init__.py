"""``moments``: class means and covariances in public components, with noise where a study asks for a guarantee."""

from fedkr.generators.moments.generator import Generator, Options
