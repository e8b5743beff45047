# Every target does its own set-up: it creates .venv, installs gradtx with its compiled extension
# (where a C++ compiler is found) and what the target needs.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
STAMP := .venv/gradtx-installed
SOURCES := pyproject.toml setup.py constraints.txt $(shell find gradtx_cuda/csrc -type f)

.PHONY: demo test test-all lint bench clean

demo: $(STAMP)  ## train a small GPT with three optimizers; writes out/lm
	$(BIN)/python examples/train_lm.py --out out/lm

test: $(STAMP)  ## the test suite without what is slow
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy gradtx

bench: $(STAMP)  ## step times as ratios to torch's fused AdamW; writes benchmarks/results
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/chart.py benchmarks/results/step_time_cpu_2_threads.json

clean:
	rm -rf .venv build out *.egg-info gradtx_cuda/*.so

$(STAMP): $(SOURCES)
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt "setuptools>=77" wheel ninja torch numpy optree
	$(PIP) install -c constraints.txt --no-build-isolation --editable ".[dev]"
	$(BIN)/python -m gradtx
	touch $(STAMP)
