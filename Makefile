# Every target does the set-up it needs. Only Python >= 3.11 and make must be there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# -qq: a machine with its own package index would fill the screen with warnings.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)

# The workers of pytest-xdist keep the cores busy, and small graphs need no thread pool.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test check slow bench docs

help:  ## Show the targets.
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

setup: $(VENV)/.installed  ## Create .venv with everything a developer needs.

demo: $(VENV)/.core  ## Diagnose a 64-layer GCN on Cora, stabilize and train it; write report/.
	$(BIN)/graphfathom diagnose Cora --model gcn --layers 64 --out report/
	$(BIN)/graphfathom stabilize Cora --model gcn --layers 64 --out report/stabilized/

test: check  ## Lint, type check and all fast tests.
	$(PYTEST) -n 2 --quiet

check: $(VENV)/.installed  ## Lint, format and type check.
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check . || { echo "Run: $(BIN)/ruff format ."; exit 1; }
	$(BIN)/pyright

slow: $(VENV)/.installed  ## The tests that take more than a few seconds each.
	$(PYTEST) -n 2 --quiet -m slow || [ $$? -eq 5 ]  # 5: there are none

bench: $(VENV)/.installed  ## Every benchmark at its quick size.
	@status=0; for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
	  echo "== $$script"; $(BIN)/python $$script --quick || status=1; \
	done; exit $$status

docs: $(VENV)/.installed  ## Build the documentation; warnings are errors.
	$(ONE_THREAD) $(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python >= 3.11 is needed. Got $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and by itself, so that nothing else decides which build is taken.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV)/, once; this takes a few minutes."
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed: $(VENV)/.core
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
