"""One whole study on one machine or a Ray cluster, from a composed configuration to its report."""
