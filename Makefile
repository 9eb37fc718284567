# make demo | make test | make lint: each makes its own virtual environment in .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint clean
.DEFAULT_GOAL := demo

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "jaxrecon needs Python 3.11 or 3.12, and '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true): try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/jaxrecon fit jaxrecon/assets/samples/demo --out out --preset fast

test: $(INSTALLED)
	JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.cache/jax" $(BIN)/python -m pytest -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis build
