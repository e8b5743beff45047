# Every target does its own set-up: it creates .venv, installs gradtx with its compiled extension
# (where a C++ compiler is found) and what the target needs.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/gradtx-installed
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SOURCES := pyproject.toml setup.py constraints.txt $(shell find gradtx_cuda/csrc -type f)
OLDEST := .venv-oldest
OLDEST_PIP := $(OLDEST)/bin/python -m pip --disable-pip-version-check
# What pyproject.toml names as the oldest versions, and a setuptools of that time.
OLDEST_VERSIONS := torch==2.10.0 optree==0.16.0 typing_extensions==4.10.0 setuptools==77.0.3

.PHONY: demo test test-all test-oldest sanitize lint bench clean

demo: $(STAMP)  ## train a small GPT with five optimizers; writes out/lm
	$(BIN)/python examples/train_lm.py --out out/lm

test: $(STAMP)  ## the test suite without what is slow
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest: $(OLDEST)/gradtx-installed  ## the contract tests on the oldest supported versions
	PYTHONPATH=$(CURDIR) $(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" \
	  tests/contract tests/parity

sanitize: $(STAMP)  ## hostile calls of all kernels under address and undefined-behaviour sanitizers
	mkdir -p out/sanitize/gradtx_cuda
	cp gradtx_cuda/__init__.py gradtx_cuda/sources.py out/sanitize/gradtx_cuda
	CFLAGS="$(SANITIZERS)" LDFLAGS="$(SANITIZERS)" GRADTX_BUILD=1 $(BIN)/python setup.py -q build_ext \
		--build-lib out/sanitize --build-temp out/sanitize/build
	PYTHONPATH=out/sanitize:. LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 GRADTX_HOSTILE_CASES=500 \
		$(BIN)/pytest --import-mode=append tests/ops/test_hostile.py

lint: $(STAMP)  ## ruff and mypy; a user's file with mypy and, where the index has it, pyright
	-$(PIP) install --quiet -c constraints.txt basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy gradtx
	$(BIN)/python -m pytest -q tests/contract/test_declared.py -k users_file

bench: $(STAMP)  ## step times as ratios to torch's fused AdamW; writes benchmarks/results
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/chart.py benchmarks/results/step_time_cpu_2_threads.json

clean:
	rm -rf .venv $(OLDEST) build out *.egg-info gradtx_cuda/*.so

$(STAMP): $(SOURCES)
	@echo "set-up in .venv: downloads torch (200 MB where the index has its CPU build, else about"
	@echo "3 GB with CUDA) and some 100 MB of tools, then compiles the kernels; 2 to 10 minutes"
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt "setuptools>=77" wheel ninja torch numpy optree
	@echo "compiling the kernels: about a minute"
	$(PIP) install -c constraints.txt --no-build-isolation --editable ".[dev]"
	$(BIN)/python -m gradtx
	touch $(STAMP)

$(OLDEST)/gradtx-installed: pyproject.toml
	@echo "set-up in $(OLDEST): downloads torch 2.10, which may bring 3 GB of CUDA libraries"
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST_PIP) install $(OLDEST_VERSIONS) wheel numpy pytest pytest-xdist hypothesis expecttest
	touch $@
