# The first target that you run sets up a virtual environment in .venv; later runs reuse it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SOURCE ?= synthetic:256x448@30?seed=7&frames=301
MODEL ?= nano
OUT ?= out/demo
SECONDS ?= 60
SEED ?= 0
SOAK_SECONDS ?= 3600

.PHONY: demo test test-slow lint format bench soak train-smoke gpu-check docs clean

$(STAMP): pyproject.toml constraints.txt
	@echo 'setting up .venv with PyTorch and the rest: some minutes, once'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## the whole pipeline on this machine: encode a drive, send tokens over ZeroMQ, decode pictures
	$(BIN)/streamtok demo --source '$(SOURCE)' --model '$(MODEL)' --out '$(OUT)'

test: $(STAMP)  ## the tests, without slow and GPU tests (minutes on two cores)
	$(BIN)/python -m pytest -m 'not slow and not gpu' -n 2 --dist worksteal

test-slow: $(STAMP)  ## the slow tests: an hour of soak (SOAK_SECONDS), kill -9, long drives
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -m 'slow and not gpu'

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## rates, latencies and ratios on this machine
	$(BIN)/streamtok bench

soak: $(STAMP)  ## a node under faults for SECONDS (60): does it keep its promises?
	$(BIN)/streamtok soak --seconds $(SECONDS) --seed $(SEED)

train-smoke: $(STAMP)  ## a minute of training on synthetic clips
	$(BIN)/streamtok train --config train_smoke --overwrite

gpu-check: $(STAMP)  ## GPU tests and benchmarks, on a machine that has one
	$(BIN)/python tools/gpu_check.py

docs: $(STAMP)  ## the pages and the Python API as a site in out/site
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf .venv build dist out *.egg-info
