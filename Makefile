# Two commands: `make demo` (the whole pipeline on the embedded model), `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/python cli.py demo

test: .venv/installed-dev lint
	$(BIN)/python -m pytest --cov=stores --cov-branch --cov-report=term:skip-covered --cov-fail-under=95

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamp is written last: an interrupted installation is done again, a finished one is not.
.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv data/demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
