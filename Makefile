# make demo   install and run the demo           make lint    static checks and import contracts
# make test   install, lint and run the tests    make bench   run every benchmark in turn
# make format apply the formatter's rewrites     make clean   remove what was made (distclean: .venv too)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: install demo test lint format bench clean distclean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROOMS := cache extract fuse evaluate moodfuse

install: $(STAMP)

# Done once, and again when setup.py changes. uv installs several times faster than pip; where it cannot be had, pip does it.
$(STAMP): setup.py
	@$(PYTHON) -c 'import sys; sys.exit("moodfuse needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	    && $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --editable '.[dev]'; then :; \
	else \
	    echo 'uv could not install; installing with pip'; \
	    $(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)
	$(BIN)/moodfuse demo --output demo
	@echo; echo 'The results are in $(CURDIR)/demo:'; find demo -name report.html -o -name metrics.json | sort

test: lint
	$(BIN)/pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,$(ROOMS))
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every script, whatever becomes of the others, then the speeds of all as one table. That takes hours; a few of them:
# make bench SCRIPTS="extract_speed tuning_speed new_clip extract_memory fuse_speed scaling"
SCRIPTS ?= $(sort $(basename $(notdir $(wildcard benchmarks/*.py))))
ROWS := build/bench_rows.jsonl
bench: $(STAMP)
	@mkdir -p $(dir $(ROWS)); rm -f $(ROWS); missed=; for script in $(SCRIPTS); do \
	    echo "== $$script"; MOODFUSE_BENCH_ROWS=$(ROWS) $(BIN)/python "benchmarks/$$script.py" || missed+=" $$script"; \
	done; \
	if [[ -f $(ROWS) ]]; then echo "== all speeds"; $(BIN)/python benchmarks/side_by_side.py $(ROWS); fi; \
	if [[ -n "$$missed" ]]; then echo "missed a bar, or failed:$$missed"; exit 1; fi

clean:
	rm -rf build dist demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
