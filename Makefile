# demo: the main job on the embedded default.  test: the test suite.  check: linters.
# Another interpreter: `make demo PYTHON=python3.12`.  Another environment: `make demo VENV=/path/to/env`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/fedkr simulate

# Whole runs are long, and most start processes of their own, which wait for each other: apart from the rest, and more at a
# time than there are processors, in the order of tests/simulations/conftest.py.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest --numprocesses 5 --dist loadfile --no-loadscope-reorder -m alone tests/simulations

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamps make a second call quick; a changed pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fedkr needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing);" \
	    "name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv $(VENV)' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
