# make demo   preprocess real text, train four models, extrapolate to 8192, draw the result
# make test   the whole test suite
# make lint   ruff and mypy
# make docs   the pages of docs/, into build/docs; a warning is an error
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# what an installation depends on: the kernels are compiled by it
SOURCES := pyproject.toml setup.py $(wildcard megadape/attention/native/kernel/*)

.PHONY: demo test lint docs clean

demo: $(VENV)/.runtime
	$(BIN)/megadape demo --out demo $(DEMO_FLAGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TEST_FLAGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "megadape needs Python 3.11 or later; choose one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

# megatron-core only reads and writes files in the tests; its own requirements are not needed for that
$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'megatron-core==0.16.1'
	touch $(VENV)/.runtime $@

clean:
	rm -rf $(VENV) demo build *.egg-info
