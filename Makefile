# Needs python3 (3.11 to 3.13), make and a package index, and nothing else. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# the tests start many processes: where bytecode is not written, each compiles all of the package anew
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest
FITS = import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	"Python %d.%d was found, and Trunkline needs 3.11 to 3.13. Name one: make PYTHON=python3.12" % v)

.PHONY: help demo demo-zh test test-wide lint check test-real soak bench clean

help:
	@echo "make demo       the whole job on the English messages that come with Trunkline"
	@echo "make demo-zh    the same in Chinese"
	@echo "make test       the quick tests"
	@echo "make test-wide  the same for more families, seeds and kills; CI runs it too"
	@echo "make check      format, lint, types, and the quick tests (import rules among them)"
	@echo "make test-real  the tests on real models and data (TRUNKLINE_DATA names the data folder)"
	@echo "make soak       the long bars of serving: kills, swaps, stops, wrong requests (hours)"
	@echo "make bench      what was aimed at beside other tools and what was measured (bench/bars.py --run measures)"
	@echo "make clean      remove the environment and what the tools left"

demo: $(VENV)/installed
	$(BIN)/trunkline demo --language en

demo-zh: $(VENV)/installed
	$(BIN)/trunkline demo --language zh

test: $(VENV)/installed-dev
	$(PYTEST) -n 2 --dist worksteal --durations=5 -m "not slow and not real and not wide"

test-wide: $(VENV)/installed-dev
	$(PYTEST) -n 2 --dist worksteal -m "wide and not slow and not real"

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

test-real: $(VENV)/installed-dev
	$(PYTEST) -m real

soak: $(VENV)/installed-dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python bench/soak.py

bench: $(VENV)/installed-dev
	$(BIN)/python bench/bars.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: made again when what it is made from changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c '$(FITS)'
	@echo "Installing Trunkline into $(VENV): some minutes the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what the tests need ..."
	@$(INSTALL) -e '.[dev]'
	@touch $@
