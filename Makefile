# On a machine with Python 3.11, 3.12 or 3.13 (with its venv module) and make, every target works from nothing.

PY := .venv/bin/python
RUN := sh scripts/bootstrap.sh run
DEV := sh scripts/bootstrap.sh dev
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help up install test fast lint bench bench-quick faults lock clean

help: ## show this list
	@echo 'Piropiro streams LLM answers through a queue. Start with: make up'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'make up ARGS="--api 2 --workers 2 --port 9000" passes options; make PYTHON=/path/to/python picks a Python.'

up: ## run the whole stack on http://127.0.0.1:8000; Ctrl-C stops it
	@$(RUN)
	@$(PY) -m cli up --with-parent $(ARGS)

install: ## only create .venv, with everything in it
	@$(DEV)

# Three at a time, on two cores as well: most of the time they wait.
test: ## run every test
	@$(DEV)
	@sh scripts/node.sh
	@$(PY) -m pytest --numprocesses 3 --dist loadfile $(ARGS)

fast: ## run the tests that need no server
	@$(DEV)
	@$(PY) -m pytest tests/unit tests/properties $(ARGS)

lint: ## check style, types and which package imports which
	@$(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

bench: ## compare with simpler ways, in 9 minutes; ARGS=growth and others measure other things, ARGS=-h lists them
	@$(DEV)
	@$(PY) -m bench $(ARGS)

bench-quick: ## the same comparison in a minute, for a first look
	@$(DEV)
	@$(PY) -m bench compare --quick

faults: ## kill, pause and cut everything while clients read; ARGS=--quick, '--upstream responses', takeover, cancel, deploy or failover
	@$(DEV)
	@$(PY) -m faults $(ARGS)

lock: ## write requirements*.txt anew from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(RUN)
	@sh scripts/lock.sh $(ARGS)

clean: ## remove .venv and every cache
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
