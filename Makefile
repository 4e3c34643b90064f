# make reproduce: every table and figure.   make test: everything that can be checked.   make help: the rest.
PYTHON  ?= python3
DATASET ?=
NOTEBOOK ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread and one instruction set, so that a notebook's numbers are the same bits on every x86-64 machine.
SAME_BITS := OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE

.DEFAULT_GOAL := help
.PHONY: help setup reproduce run run-live book bench bench-compiled test test-lib test-notebooks test-long test-browser test-gpu lint types format notebooks pages hashes sbom lab clean

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

reproduce: PROFILE ?= smoke
reproduce: $(STAMP) ## run the notebooks with papermill, and make a book of them
	@status=0; $(MAKE) --no-print-directory -k -j 2 $(if $(NOTEBOOK),run,run-live run) PROFILE=$(PROFILE) || status=$$?; \
	test ! -d results/$(PROFILE)/notebooks || $(MAKE) --no-print-directory book PROFILE=$(PROFILE) NOTEBOOKS=results/$(PROFILE)/notebooks; \
	exit $$status

# Two processes side by side: these notebooks need no record of the others.
LIVE   := 00_quickstart 31_bring_your_own_models 32_scikit_learn
OTHERS := $(filter-out $(LIVE),$(basename $(notdir $(wildcard notebooks/*.ipynb))))
run: run-chosen = $(or $(NOTEBOOK),$(OTHERS))
run-live: run-chosen = $(LIVE)
run run-live: $(STAMP)
	@$(BIN)/freelib reproduce --profile $(PROFILE) $(if $(DATASET),--dataset $(DATASET)) $(run-chosen:%=--notebook %)

# The sources of the book are laid out as in the checkout, so that links between pages work in both.
book: PROFILE ?= cpu
book: NOTEBOOKS ?= $(if $(filter cpu,$(PROFILE)),notebooks,results/$(PROFILE)/notebooks)
book: BOOK = build/book/$(PROFILE)
book: $(STAMP) ## notebooks, guide, results and reference as one site: build/book/PROFILE/html/index.html
	@test -d $(NOTEBOOKS) || { echo "there is no $(NOTEBOOKS): make reproduce PROFILE=$(PROFILE) writes it" >&2; exit 2; }
	@rm -rf $(BOOK) && mkdir -p $(BOOK)/sources/results
	@cp -r docs $(NOTEBOOKS) *.md $(BOOK)/sources && cp -r results/*.md results/cpu $(BOOK)/sources/results
	PROFILE=$(PROFILE) $(BIN)/sphinx-build -q -j auto $(if $(filter notebooks,$(NOTEBOOKS)),-W --keep-going) \
	    -d $(BOOK)/doctrees -c $(BOOK)/sources/docs $(BOOK)/sources $(BOOK)/html
	@echo $(CURDIR)/$(BOOK)/html/index.html

bench: $(STAMP) ## each piece against a straightforward implementation, ten minutes of two quiet cores
	PYTHONPATH=notebooks $(BIN)/python benchmarks/run.py

bench-compiled: $(STAMP) ## is torch.compile faster? minutes of a quiet core, and a C++ compiler
	PYTHONPATH=notebooks $(BIN)/python benchmarks/compiled.py

test: lint types test-lib test-notebooks ## lint, type check, library tests, notebooks; needs no data

test-lib: $(STAMP) ## library tests, two at a time, with coverage
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term --durations=10 tests

test-notebooks: $(STAMP) ## run the notebooks on the committed records and compare what they print
	$(SAME_BITS) FREELIB_WORKERS=1 $(BIN)/pytest --nbval-lax --nbval-current-env -p no:cacheprovider -W ignore \
	    -n 2 --dist loadfile --no-loadscope-reorder --durations=5 notebooks

test-cluster: $(STAMP) ## the graph on a Slurm of this machine, a node killed in the middle; needs root, slurmctld, slurmd, munge
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[cluster]'
	PATH="$(CURDIR)/$(BIN):/usr/sbin:$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster -s tests/cluster

test-long: export KILLS ?= 20
test-long: export EXAMPLES ?= 10000
test-long: export MINUTES ?= 30
test-long: $(STAMP) ## kills, properties and a fuzzer, hours of one core; their figures: results/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long tests/long
	$(BIN)/python docs/render.py

test-browser: book ## read the book and run a notebook in JupyterLab, in a real browser
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[browser]'
	command -v chromium google-chrome > /dev/null || $(BIN)/python -m playwright install --with-deps chromium
	$(BIN)/pytest -m browser tests/browser

hashes: $(STAMP) ## pin the hash of every file that constraints.txt leads to, in requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[supply]'
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-strip-extras --extra dev \
	    --no-emit-package freelib -c constraints.txt --custom-compile-command 'make hashes' -o requirements.txt pyproject.toml

sbom: $(STAMP) ## what is installed in .venv, with versions and licences, as CycloneDX: build/sbom.json
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[supply]'
	@mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json $(VENV)
	@echo $(CURDIR)/build/sbom.json

test-gpu: $(STAMP) ## on a machine with a GPU: the CPU's numbers, and a table of seconds to paste into an issue
	$(BIN)/pytest -m gpu -s tests/methods/test_gpu.py

lint: $(STAMP) ## style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## type check
	$(BIN)/mypy

format: $(STAMP) ## mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(STAMP) ## execute the committed notebooks, or NOTEBOOK, again, in place, on the committed records
	$(SAME_BITS) $(BIN)/freelib notebooks --in-place $(NOTEBOOK)

pages: $(STAMP) ## fill the numbers of the records into README.md and the pages of results/
	$(BIN)/python docs/render.py

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

clean: ## remove caches and what smoke, paper and failed runs wrote (never results/cpu, never .venv)
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* htmlcov results/smoke results/paper results/failed
	find freelib tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
