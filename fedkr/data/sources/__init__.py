"""One module a family of datasets, each with ``load(config) -> Source``."""
