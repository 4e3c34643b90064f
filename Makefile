# make reproduce: every table and figure on one page.   make test: everything that can be checked.   make help: the rest.
PYTHON  ?= python3
PROFILE ?= smoke
DATASET ?=
NOTEBOOK ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread and one instruction set, so that a notebook's numbers are the same bits on every x86-64 machine.
SAME_BITS := OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE

.DEFAULT_GOAL := help
.PHONY: help setup reproduce bench bench-compiled test test-lib test-notebooks lint types format notebooks lab clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'
	@echo "  variables: PROFILE=smoke|cpu|paper  DATASET=glyphs|cifar-fs|mini-imagenet|cub  PYTHON=python3"

setup: $(STAMP) ## make the virtual environment .venv

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) not found: name one with make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "freelib needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is `$(PYTHON) --version 2>&1`: name another with make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

reproduce: $(STAMP) ## run the notebooks with papermill: results/PROFILE/index.html
	$(BIN)/freelib reproduce --profile $(PROFILE) $(if $(DATASET),--dataset $(DATASET)) $(NOTEBOOK:%=--notebook %)

bench: $(STAMP) ## each piece against a straightforward implementation, ten minutes of two quiet cores
	$(BIN)/python benchmarks/run.py

bench-compiled: $(STAMP) ## is torch.compile faster? minutes of a quiet core, and a C++ compiler
	$(BIN)/python benchmarks/compiled.py

test: lint types test-lib test-notebooks ## lint, type check, library tests with coverage, notebooks

test-lib: $(STAMP) ## library tests, two at a time, with coverage
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term --durations=10 tests

test-notebooks: $(STAMP) ## run the notebooks and compare what they print with what is committed
	$(SAME_BITS) FREELIB_WORKERS=1 $(BIN)/pytest --nbval-lax --nbval-current-env -p no:cacheprovider -W ignore \
	    -n 2 --dist loadfile --no-loadscope-reorder --durations=5 notebooks

lint: $(STAMP) ## style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## type check
	$(BIN)/mypy

format: $(STAMP) ## mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(STAMP) ## execute the committed notebooks again, in place
	$(SAME_BITS) $(BIN)/freelib notebooks --in-place

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

clean: ## remove caches and what smoke, paper and failed runs wrote (never results/cpu, never .venv)
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* htmlcov results/smoke results/paper results/failed
	find freelib tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
