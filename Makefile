# make demo    install and run the demo            make lint    static checks and import contracts
# make test    install, lint and run the tests     make bench   run every benchmark in turn
# make docs    build the documentation site         make docker  build the container, or run its steps
# make format  apply the formatter's rewrites      make clean   remove what was made (distclean: environments too)
# make lock    resolve requirements.lock again from setup.py (UPGRADE=1 takes newer versions)
# make test-newest, make test-lowest               run the tests with the newest and the lowest versions of setup.py
#
# LOCKED=1 (default) installs the versions of requirements.lock, LOCKED=0 the newest versions that setup.py allows,
# LOCKED=lowest the lowest versions of the direct dependencies. VARIANT=cpu installs PyTorch's smaller CPU wheels.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: install demo docs docker test pytest test-newest test-lowest lint lock format bench clean distclean

PYTHON ?= python3
LOCKED ?= 1
VARIANT ?= full
PYTEST_OPTIONS ?= -q -n auto --dist loadfile --no-loadscope-reorder
$(if $(filter 1 0 lowest,$(LOCKED)),,$(error LOCKED is '$(LOCKED)'; expected 1, 0 or lowest))
$(if $(filter full cpu,$(VARIANT)),,$(error VARIANT is '$(VARIANT)'; expected full or cpu))
$(if $(filter cpu,$(VARIANT)),$(if $(filter-out 1,$(LOCKED)),$(error VARIANT=cpu works only with LOCKED=1)))
SUFFIX_0 := -newest
SUFFIX_lowest := -lowest
VENV := .venv$(SUFFIX_$(LOCKED))$(if $(filter cpu,$(VARIANT)),-cpu)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check
UV_PIP := $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode
# uv installs several times faster; pip installs where uv is not available.
INSTALL = $$([[ -x $(BIN)/uv ]] && echo $(UV_PIP) || echo $(PIP))

install: $(STAMP)

# Runs once, and again when the dependencies change.
$(STAMP): setup.py requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("moodfuse needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@$(PIP) --quiet "$$(grep --only-matching '^uv==[^ ]*' requirements.lock)" || echo 'uv cannot be installed; using pip'
ifeq ($(VARIANT),cpu)
	$(UV_PIP) --torch-backend cpu --no-verify-hashes --constraint requirements.lock --editable '.[dev]' || { \
	    echo 'The CPU wheels could not be installed (see above): they need uv and access to the package index of PyTorch. Run make without VARIANT=cpu to install the wheels of the default index.' >&2; exit 1; }
else ifeq ($(LOCKED),1)
	$(INSTALL) --require-hashes --requirement requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
else ifeq ($(LOCKED),lowest)
	$(UV_PIP) --resolution lowest-direct --editable '.[dev]'
else
	$(INSTALL) --upgrade --editable '.[dev]'
endif
	@touch $@

# torch and torchvision are pinned here, within the ranges of setup.py: change both to lock other versions.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	printf '%s\n' 'torch==2.14.1' 'torchvision==0.29.1' | .venv-lock/bin/uv pip compile setup.py --extra dev --universal \
	    --python-version 3.11 --generate-hashes --no-header --constraint - $(if $(UPGRADE),--upgrade) \
	    --quiet --output-file requirements.lock

demo: $(STAMP)
	$(BIN)/moodfuse demo --output demo
	@echo; echo 'The results are in $(CURDIR)/demo:'; find demo -name report.html -o -name metrics.json | sort

# Warnings are errors; pages whose text the code gives are always written again.
docs: $(STAMP)
	$(BIN)/sphinx-build -q -W --keep-going -E docs build/site
	@echo 'The site is in $(CURDIR)/build/site/index.html'

docker:
	.ci/docker_steps

test: lint pytest

pytest: $(STAMP)
	$(BIN)/pytest $(PYTEST_OPTIONS)

# No linters here: their findings depend on their version.
test-newest:
	$(MAKE) pytest LOCKED=0

test-lowest:
	$(MAKE) pytest LOCKED=lowest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p moodfuse
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every script, even where another one fails, then the speeds of all as one table. That takes hours; a few of them:
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
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-*
