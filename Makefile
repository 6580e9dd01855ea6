# Everything here sets up what it needs; re-running is quick, because the environment is reused.
PYTHON ?= python3
VENV   := .venv
# One thread for each of two test processes: threads that wait for each other by spinning slow everything down.
PYTEST := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help demo test test-slow check release-check format bench docs clean

help:
	@echo "make demo       train, measure and predict on real data (about 10 minutes, the first time)"
	@echo "make test       the tests (under 15 minutes on two cores)"
	@echo "make test-slow  the tests that take longer, without those of make test"
	@echo "make check      linters and type checker"
	@echo "make release-check  the wheel in a fresh environment, from data to a report (some minutes, 6 GB for the time)"
	@echo "make format     format the code"
	@echo "make bench      time a training step against a peer"
	@echo "make docs       the site, in build/site"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "atrous needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,dev,bench,tflite,openvino,onnx,int8,geo,medical,tune,cluster,wandb,docs,serve]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/atrous demo --out runs/demo

test: $(READY)
	$(PYTEST) -m "not slow and not gpu and not network"

test-slow: $(READY)
	$(PYTEST) -m "slow and not gpu and not network"
	$(BIN)/python .ci/release_check.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

release-check:
	$(PYTHON) .ci/release_check.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/train.py

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
