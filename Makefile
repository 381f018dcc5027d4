# make demo, make test: each sets up what it needs in .venv first.

VENV := .venv
STAMP := $(VENV)/.installed
PY := $(VENV)/bin/python
# The first of these that is there and fits; or say which: make PYTHON=python3.12 test
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10)
FITS := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## set up .venv with the package, its tests and the baselines

$(STAMP): pyproject.toml
	@python=; for p in $(CANDIDATES); do if "$$p" -c '$(FITS)' 2>/dev/null; then python="$$p"; break; fi; done; \
	if [ -z "$$python" ]; then echo "needed: Python 3.10 to 3.13 with venv (tried: $(CANDIDATES))" >&2; exit 1; fi; \
	$(PY) -m pip --version >/dev/null 2>&1 || "$$python" -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test,baselines]'
	@touch $@

demo: $(STAMP)  ## the main job: store, lose functions, read it all back; ARGS="--json", ARGS="--trace FILE"
	@$(VENV)/bin/infiniray demo $(ARGS)

test: $(STAMP)  ## all tests; ARGS="-k name"
	@$(PY) -m pytest $(ARGS)

lint: $(STAMP)  ## ruff, mypy strict, import contracts
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

bench: $(STAMP)  ## this cache against Redis, Ray's store, a socket and memcpy, in turns
	@$(VENV)/bin/infiniray bench $(ARGS)

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info build dist
