"""What is printed on a terminal that lacks the letters."""

import os
import subprocess
import sys

ODD = ["größe ± 1 ├── a", "\udcff.png", "plain"]
SCRIPT = f"import sys\nfrom fedkr.terminal import print_anywhere\nprint_anywhere()\nfor text in {ODD!r}: print(text)"


def printed(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=environment, check=True).stdout


def test_every_letter_is_printed_or_spelled():
    assert printed("ascii").decode("ascii").splitlines() == ["gr\\xf6\\xdfe +- 1 |-- a", "\\udcff.png", "plain"]
    assert printed("utf-8").decode().splitlines() == [ODD[0], "\\udcff.png", "plain"]
