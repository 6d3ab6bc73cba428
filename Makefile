# make demo   install into .venv and run the main job on the embedded data
# make test   install with the tests' tools and DGL, then lint, types, import rules and tests
#
# torch is installed first and alone, so that one variable says where it comes from:
#   make demo                                                      pip's default (on Linux a CUDA build)
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu     the CPU-only build
#   make demo TORCH_INSTALL=/path/to/torch.whl                     a file
# To change it later, `make clean` first.

PYTHON ?= python3
VENV ?= .venv
TORCH_INSTALL ?= $(shell grep '^torch==' constraints.txt)
TORCH_INDEX ?=
# options of the demo, such as OPTIONS="--device cuda" or OPTIONS=--resume
OPTIONS ?=

# processes of the tests; a file's tests stay together, in one of them
PROCESSES ?= 2

# OpenMP threads that wait by spinning slow boosted trees tenfold on a busy machine
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet
REQUIREMENTS := pyproject.toml setup.py constraints.txt

.PHONY: demo test install install-test clean
.DEFAULT_GOAL := demo

demo: install
	$(BIN)/python -m experiments demo $(OPTIONS)

test: install-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n $(PROCESSES) --dist loadfile

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# A stamp is younger than what it was made from, so a second `make` installs nothing.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: $(VENV)/.created
	@echo "installing torch: half a minute from a local file, longer over a network"
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH_INSTALL)
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(REQUIREMENTS)
	$(PIP_INSTALL) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.torch $(REQUIREMENTS)
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[test,dgl]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info
