# Every target works in .venv beside this file, which is made and kept up to date on the way.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
DEMO_OUTPUT ?= runs/demo
DEMO_SENTENCES ?=
TESTS ?=
JOBS ?= 2
BENCHMARK ?=
EXPERIMENTS ?=
STS ?=
BIN := .venv/bin
STAMP := .venv/.up-to-date
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

# Tests run side by side: one thread each, and no network.
test: export OMP_NUM_THREADS = 1
test: export HF_HUB_OFFLINE = 1
test: export PYTHONDONTWRITEBYTECODE = # the processes that tests start need not compile again
docs: export NO_MKDOCS_2_WARNING = 1

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python $(IS_NEW_ENOUGH) 2>/dev/null || { \
	  $(PYTHON) $(IS_NEW_ENOUGH) 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
	      "Install one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	    echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs the package python3-venv." >&2; exit 1; }; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: help install demo test lint format types imports docs benchmark results results-full mini mini-data small build clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create or update .venv with everything that development needs

demo: $(STAMP) ## show what small does, fine-tune it, write a page (DEMO_SENTENCES=FILE DEMO_OUTPUT=runs/demo)
	$(BIN)/llamavae demo --output $(DEMO_OUTPUT) $(if $(DEMO_SENTENCES),--sentences '$(DEMO_SENTENCES)')

test: $(STAMP) ## run the tests and the examples in docstrings, offline (TESTS=tests/corpora JOBS=2)
	$(BIN)/python -m pytest -n $(JOBS) $(TESTS)

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## repair what lint can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## check types
	$(BIN)/pyright --warnings

imports: $(STAMP) ## check that lower packages never import upper ones
	$(BIN)/lint-imports

docs: $(STAMP) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

benchmark: $(STAMP) ## measure the ratios to the floor (BENCHMARK="--shape tiny --case step")
	$(BIN)/python -m benchmarks $(BENCHMARK)

results: $(STAMP) ## write results/README.md from the measured values
	$(BIN)/python -m results

results-full: $(STAMP) ## run the experiments that have no values, in hours (EXPERIMENTS="worldtree-small")
	$(BIN)/python -m results measure $(EXPERIMENTS)
	$(BIN)/python -m results

mini-data:
	@[[ -f '$(STS)' ]] || { echo "No file '$(STS)'. Give the development part of the STS benchmark, which the model is" \
	  "measured on in the end: make mini STS=FILE" >&2; exit 1; }
	@[[ -e "$${LLAMAVAE_WORLDTREE:-}" ]] || { echo "No file '$${LLAMAVAE_WORLDTREE:-}'. Give WorldTree's explanations, which" \
	  "the model is trained on: LLAMAVAE_WORLDTREE=FILE make mini STS=FILE" >&2; exit 1; }

mini: mini-data $(STAMP) ## make the model mini anew, in hours (STS=FILE of the STS benchmark)
	$(BIN)/llamavae train --recipe mini-vae --resume
	$(BIN)/python -m pretrained.build ship runs/mini-vae
	$(BIN)/llamavae train --recipe mini-more --resume
	$(BIN)/python -m pretrained.build ship runs/mini-more
	$(BIN)/python -m pretrained.build prior mini
	$(BIN)/python -m pretrained.build define mini
	$(BIN)/python -m pretrained.build measure mini --sts '$(STS)'

small: mini-data $(STAMP) ## make the model small anew, in hours (STS=FILE of the STS benchmark)
	$(BIN)/llamavae models get all-minilm-l6-v2 smollm2-135m-instruct
	$(BIN)/llamavae train --recipe small --resume
	$(BIN)/python -m pretrained.build ship runs/small
	$(BIN)/llamavae train --recipe small-more --resume
	$(BIN)/python -m pretrained.build ship runs/small-more
	$(BIN)/llamavae train --recipe small-stage-3 --resume
	$(BIN)/python -m pretrained.build ship runs/small-stage-3
	$(BIN)/python -m pretrained.build prior small
	$(BIN)/python -m pretrained.build define small
	$(BIN)/python -m pretrained.build measure small --sts '$(STS)'

build: $(STAMP) ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean: ## remove what the other targets wrote, except .venv and runs/
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
