"""SECURITY.md and the table of attacks: every promise has a test that exists, or says that nothing covers it."""

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PAGES = ("SECURITY.md", "simulations/results/security.md")
WITH_TEST = re.compile(r"\| (.* )?test \|$")


def promises(page):
    """Return the rows of tables whose last column is the test, each with its line's number."""
    rows, promised = [], False
    for number, line in enumerate((HOUSE / page).read_text().splitlines(), 1):
        if not line.startswith("|"):
            promised = False
        elif WITH_TEST.match(line):
            promised = True
        elif promised and not set(line) <= {"|", "-"}:
            rows.append((number, line))
    return rows


def named(cell, before):
    """Return the test files and the beginnings of tests that a cell names; ``same file`` is of the row before."""
    words = re.findall(r"`([^`]+)`", cell)
    files = list(before) if "same file" in cell else []
    for word in (word for word in words if word.endswith(".py")):
        files.append(Path(word) if "/" in word else files[-1].parent / word)
    return files, [word.removesuffix("...") for word in words if word.startswith("test_") and not word.endswith(".py")]


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_a_test_that_exists_or_says_that_it_is_not_covered(page):
    rows, files, problems = promises(page), [], []
    assert len(rows) > 10
    for number, line in rows:
        cell = line.strip("|").split("|")[-1]
        files, tests = named(cell, files)
        sources = [(HOUSE / file).read_text() if (HOUSE / file).is_file() else None for file in files]
        problems += [f"{page}:{number}: no {file}" for file, text in zip(files, sources, strict=True) if text is None]
        for test in tests:
            if not any(re.search(rf"^def {test}", text, re.M) for text in sources if text):
                problems.append(f"{page}:{number}: no {test}")
        if not files and "**not covered**" not in line:
            problems.append(f"{page}:{number}: neither a test nor the words 'not covered'")
    assert problems == []


def test_files_and_beginnings_of_tests_are_read_out_of_a_row():
    files, tests = named("`tests/a.py`: `test_b...`, `test_c.py`", [])
    assert (files, tests) == ([Path("tests/a.py"), Path("tests/test_c.py")], ["test_b"])
    assert named("same file: `test_d...`", files[:1]) == ([Path("tests/a.py")], ["test_d"])
    assert named("**not covered**", files) == ([], [])
