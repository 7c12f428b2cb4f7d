# Python 3.11 or 3.12 and make are all that is needed: everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Wheels of torch without CUDA have no entry of their own in every index: pin and install it first.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint check bench clean

demo: .venv/.demo
	$(BIN)/sonet reproduce digits --only natural

test: .venv/.test lint check

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: .venv/.test
	$(BIN)/pytest -n 2

# torchode asks for old versions of packages that it hardly uses.
bench: .venv/.test
	$(PIP) --no-deps torchode==1.0.1 torchtyping==0.1.5 typeguard==2.13.3
	$(PIP) foolbox==3.3.4
	$(BIN)/python benchmarks/speed/run.py --replace --repeats 2
	$(BIN)/python benchmarks/speed/memory.py --quick
	$(BIN)/python benchmarks/speed/cost.py --quick
	$(BIN)/python benchmarks/speed/attacks.py --quick --runs runs/bench
	$(BIN)/python benchmarks/speed/table.py

.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/.test: .venv/.demo
	$(PIP) --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build dist
