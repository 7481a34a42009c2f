# make demo   the SeqPoint translation recipe on real text, from nothing but Python >= 3.11
# make test   the whole test suite, likewise
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types bench clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fulgurite needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing (torch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[data]"
	@rm -rf fulgurite.egg-info  # would hide the installed metadata from whoever runs Python in this folder
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing (torch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	@rm -rf fulgurite.egg-info
	@touch $@ .venv/.demo

demo: .venv/.demo
	$(BIN)/fulgurite run seqpoint/translation
	@echo "The report: $$(ls -td runs/seqpoint/translation/version_*/seqpoint/report.html | head -1)"

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	MYPYPATH=.types $(BIN)/mypy -p fulgurite

bench: .venv/.dev
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[bench]"
	@rm -rf fulgurite.egg-info
	$(BIN)/python benchmarks/seqpoint.py
	$(BIN)/python benchmarks/representative_interpretation.py

clean:
	rm -rf .venv build dist *.egg-info
