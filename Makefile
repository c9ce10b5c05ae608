# Everything runs in .venv; `make PYTHON=/path/to/python ...` uses another environment.
PYTHON ?= .venv/bin/python

.PHONY: setup check lint type test bench fix docs build release

setup:  ## create .venv with the package and its tools
	python3 -m venv .venv
	.venv/bin/pip install -e '.[dev]'

check: lint type test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

type:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

bench:  ## speed and memory against the literal transcription; minutes
	$(PYTHON) tests/benchmarks/speed.py
	$(PYTHON) tests/benchmarks/training.py
	$(PYTHON) tests/benchmarks/command.py

docs:  ## write the tables of options in docs/ again
	$(PYTHON) .github/options_tables.py

fix:  ## fix what can be fixed automatically
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

build:  ## wheel and source archive in dist/
	$(PYTHON) -m build

release:  ## build, check, install and try the wheel; uploads nothing
	PYTHON=$(PYTHON) .ci/release
