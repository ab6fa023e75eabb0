"""Class-conditional generators behind one protocol."""

from fedkr.generators.base import Generator, Knobs, build_generator, known_options
