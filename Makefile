# `make` lists what there is. Everything runs in .venv, made from the exact pins of requirements.lock.

PYTHON ?= python3
CORES ?= $(shell nproc)
GPUS ?= $(shell nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | wc -l)
BIN := .venv/bin
READY := .venv/ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help run test zoo lint audit format bench clean env

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

run: env  ## run the study of config.yaml and say where the report is
	snakemake --cores $(CORES) --resources gpu=$(GPUS)
	@echo "The report is at $(CURDIR)/reports/index.html"

test: env  ## run the tests
	PYTHONUTF8=1 python -m pytest -n 2 --dist loadfile --durations=25

zoo: env  ## run every architecture against autograd and write docs/models.md
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m tests.zoo

lint: env  ## check style, types of mistakes and the workflow
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint

audit: env  ## look the pins up among known vulnerabilities (needs a package index that tells them)
	pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

format: env  ## format the code
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

bench: env  ## measure the engine against the reference way
	python -m benchmarks

clean:  ## delete what the workflow made, except what was measured (data/spectra) and raw inputs
	rm -rf .snakemake .layergrad logs data/models data/datasets data/pairs data/statistics
	rm -rf reports/figures reports/tables reports/index.html reports/metrics.json

env: $(READY)  ## make .venv, or make it anew when the pins changed

$(READY): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "layergrad needs Python 3.11 or newer")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
