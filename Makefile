# Everything a checkout can do, on a machine with Python >= 3.11, make and git.
# Each target makes .venv first, once: without a network nothing is asked of one later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PARITY_INSTALLED := $(VENV)/.installed-parity
# Beside the environment, not in it: where jax finds libtpu and no TPU, every program that
# uses jax begins with a page of warnings.
LIBTPU := $(VENV)/libtpu
LIBTPU_INSTALLED := $(VENV)/.installed-libtpu
CONSTRAINTS := constraints/constraints-py311.txt constraints/constraints-py312.txt
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check \
	--constraint "$$($(BIN)/python constraints/choose.py)"

export TF_CPP_MIN_LOG_LEVEL ?= 2

# On a CPU a training step spends much of its time on fresh pages: glibc gives back to the
# system what a step frees, and the next one asks for it again, 4 KiB at a time. With
# these it keeps the memory, in large pages; other C libraries do not read them.
KEEP_MEMORY := GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456

# Processes: most tests keep one core busy, compiling.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help install quickstart quickstart-seeds small test test-slow test-plan faults check \
	format parity bench

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(INSTALLED)  ## .venv with pinned versions of everything below needs

quickstart: $(INSTALLED)  ## train a hypermodel end to end and show that it adapts
	$(KEEP_MEMORY) $(BIN)/python -m hypert5_jax.quickstart --gin_file=gin/quickstart.gin

quickstart-seeds: $(INSTALLED)  ## the same over 3 seeds, mean and deviation
	$(KEEP_MEMORY) $(BIN)/python -m hypert5_jax.quickstart --gin_file=gin/quickstart_seeds.gin

# Every step passes over what is done. Runs of one shape are compiled once.
small: export JAX_COMPILATION_CACHE_DIR ?= runs/small/compiled
small: $(INSTALLED)  ## the paper's experiments in small, and the report (docs/small.md)
	$(KEEP_MEMORY) $(BIN)/python -m hypert5_jax.train --gin_file=gin/recipes/small/sweep.gin
	$(KEEP_MEMORY) $(BIN)/python -m hypert5_jax.train --gin_file=gin/recipes/small/figure_4_sweep.gin
	$(KEEP_MEMORY) $(BIN)/python -m hypert5_jax.tune --gin_file=gin/recipes/small/tune.gin
	$(BIN)/python -m hypert5_jax.report --results=runs/small --output=runs/small/report

test: $(INSTALLED)  ## the laws and every other fast test
	$(BIN)/python -m pytest -q --durations=10 -n $(TEST_PROCESSES) --dist loadfile

test-slow: $(INSTALLED) $(LIBTPU_INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -q --durations=10 -m "slow and not tpu_compiler"
	PYTHONPATH=$(LIBTPU) $(BIN)/python -m pytest -q -m "slow and tpu_compiler" tests/planning

faults: $(INSTALLED)  ## a tiny training killed at 100 random moments, its end compared bit by bit
	$(BIN)/python -m tests.faults.inject --runs=100 --seed=0

check: $(INSTALLED)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite files the way `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Only their folder: collecting the others imports TensorFlow, and torch's Triton, where
# it comes along, crashes the interpreter when it is loaded after it.
parity: $(PARITY_INSTALLED)  ## our T5, formats and decoding against Hugging Face's (installs torch)
	OPTIMISED=1 $(BIN)/python -m pytest -q -m parity tests/t5 tests/checkpoints tests/inference

test-plan: $(LIBTPU_INSTALLED)  ## plans made with the TPU compiler (installs libtpu)
	PYTHONPATH=$(LIBTPU) $(BIN)/python -m pytest -q --durations=10 -m "tpu_compiler and not slow" tests/planning

bench: $(PARITY_INSTALLED)  ## our training step against Hugging Face's (installs torch)
	$(KEEP_MEMORY) $(BIN)/python benchmarks/train_step.py

# A virtual environment whose making was interrupted is made anew; an installation that
# was interrupted goes on where it stopped.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	"hypert5_jax needs Python 3.11 or newer, but $(PYTHON) is" \
	"$$($(PYTHON) --version 2>&1 || true). Name another one:" \
	"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) --editable '.[data,dev,serve]'
	@touch $@

$(PARITY_INSTALLED): $(INSTALLED)
	$(PIP_INSTALL) --editable '.[data,dev,parity,serve]'
	@touch $@

$(LIBTPU_INSTALLED): $(INSTALLED)
	$(PIP_INSTALL) --quiet --no-deps --upgrade --target $(LIBTPU) libtpu
	@touch $@
