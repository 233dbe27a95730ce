# make demo | test | floor | lint | dist; each makes .venv where it is missing and installs
# what it needs.
PYTHON ?= python3
VENV ?= .venv
FLOOR ?= .venv-floor
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)
ARGS ?=
PACKAGING := pyproject.toml $(CONSTRAINTS)

# Real data for the tests marked `data`; without the folder they skip.
ifneq ($(wildcard ../shared/data),)
export JAXVISION_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test floor lint dist clean

demo: $(VENV)/.demo
	$(BIN)/python -m experiments.transfer --backbone wrn50_2 $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

# The part of the tests that a version of JAX or Flax can break, with the oldest allowed.
floor:
	$(MAKE) test VENV=$(FLOOR) CONSTRAINTS=constraints-floor.txt \
	    ARGS='-m "floor and not slow or notebook" $(ARGS)'

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# A source distribution, and a wheel that is the same for all Pythons and platforms.
dist: | $(BIN)/python
	$(PIP) build
	rm -rf build dist
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(FLOOR) build dist *.egg-info jaxvision/*.so

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(PACKAGING) | $(BIN)/python
	$(PIP) -e '.[app,cpu]'
	touch $@

# torch comes first: torchvision's own requirement would pull a build for CUDA.
$(VENV)/.test: $(PACKAGING) | $(BIN)/python
	$(PIP) torch
	$(PIP) -e '.[app,cpu,torch,test]'
	-$(BIN)/python -m jaxvision.ops.build
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) -e '.[lint]'
	touch $@
