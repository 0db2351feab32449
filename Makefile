# The commands people type. `make demo` and `make test` set up everything they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data

.PHONY: help demo model test test-slow check format bench-parity bench-load eval-base clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("polyrank needs Python 3.11 or newer, not " + sys.version.split()[0] + "; run make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[onnx,parquet]'
	@touch $@

# torch first and pinned: left to a range, pip may take a build with gigabytes of GPU libraries
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

model: $(VENV)/.demo ## build the default model into the user's cache (once, about a minute)
	$(BIN)/python recipes/base/build.py

demo: model ## rank real text in many languages with the default model
	@echo
	$(BIN)/polyrank rerank "How long do cats live?" examples/cats.jsonl
	@echo
	$(BIN)/polyrank rerank "猫の寿命はどのくらいですか" examples/cats.jsonl --top-n 5

test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test ## run the tests that need minutes or the default model
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test ## lint, types, layers and docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pydoclint --quiet src

format: $(VENV)/.test ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

eval-base: $(VENV)/.test model ## retrieval quality of the default model on XQuAD, 12 languages (slow)
	$(BIN)/python recipes/base/check.py --data $(DATA)/eval/xquad

bench-load: $(VENV)/.test ## load a full-size seeded XLM-R-large beside transformers: time and memory
	$(BIN)/python benchmarks/load_large.py

clean: ## remove what the targets made here (the model in the user's cache stays)
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
