"""``python -m simulations.evidence.privacy``."""

import sys

from simulations.evidence.privacy.command import main
from simulations.exits import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
