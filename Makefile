# make demo   the SeqPoint translation recipe on real text, from nothing but Python >= 3.11
# make test   the whole test suite, likewise
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types bench clean

.venv/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fulgurite needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing (torch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[data]"
	@touch $@

.venv/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing (torch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	@touch $@ .venv/.demo

demo: .venv/.demo
	$(BIN)/fulgurite run seqpoint/translation

test: .venv/.dev
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	MYPYPATH=.types $(BIN)/mypy -p fulgurite

bench: .venv/.dev
	$(BIN)/python benchmarks/seqpoint.py

clean:
	rm -rf .venv build dist *.egg-info
