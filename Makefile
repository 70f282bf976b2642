# Each target does all its own set-up, from a clean clone: it needs Python 3.11 or newer (with venv) and make.
#   make train    learn handwritten digits; writes runs/digits/    (ARGS="--resume" continues after Ctrl-C)
#   make test     the whole test suite                             (ARGS="-k name" chooses)
#   make mutants  plant bugs in the kernels and see that tests catch them   (ARGS=rows.cu chooses)
#   make lint     ruff and mypy
#   make bench    speed and memory beside the peers that are installed
#   make launches count what layers, losses and steps launch on a GPU, kernels off and on (no GPU is needed)
#   make gpu      numbers, tests and speed of the kernels on a CUDA device; writes benchmarks/results/
#   make clean    remove what the above made, but not runs/ and benchmarks/results/
# Set-up is done again only when pyproject.toml changes. PYTHON=... names another interpreter, EXTRAS=... more extras.

PYTHON ?= $(shell for python in python3 python python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
ARGS ?=
EXTRAS ?=
comma := ,
cupy = $(if $(filter cuda13,$(cuda)),cupy13,cupy12)
cuda = cuda$(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test mutants lint bench launches gpu clean

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

train: $(BIN)/.has-run
	@$(BIN)/pullback train $(ARGS)

test: $(BIN)/.has-dev
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

mutants: $(BIN)/.has-dev
	@$(BIN)/python -m tests.mutants $(ARGS)

lint: $(BIN)/.has-dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(BIN)/.has-bench
	@$(BIN)/python -m benchmarks $(ARGS)

launches: $(BIN)/.has-dev
	@PYTHONPATH=tests $(BIN)/python -m stand_in_cupy

gpu: gpu-is-here $(BIN)/.has-gpu
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

.PHONY: gpu-is-here
gpu-is-here:
	@nvidia-smi --list-gpus 2>/dev/null || { echo 'make gpu: no NVIDIA GPU with a working driver here (nvidia-smi found none)' >&2; exit 1; }

clean:
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What each target needs; a stamp says that it is installed.
$(BIN)/.has-run: extras = data,plot
$(BIN)/.has-dev: extras = data,plot,dev,$(cupy)
$(BIN)/.has-bench: extras = bench
$(BIN)/.has-gpu: extras = data,dev,bench,$(cuda)

$(BIN)/.has-%: pyproject.toml | $(BIN)/python
	@echo 'Installing pullback[$(extras)$(EXTRAS:%=$(comma)%)] into .venv; this is done once ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(extras)$(EXTRAS:%=$(comma)%)]'
	@touch $@

$(BIN)/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'pullback needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
