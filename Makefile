# Every target builds the environment it needs: .venv holds requirements.txt plus what the target adds.
# The first of these that starts: a version manager puts Pythons on the path that it does not have.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	    $$name -c '' 2>/dev/null && command -v $$name && break; done)
PYTHONS ?= python3.12 python3.13
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(BIN)/python
# --no-compile halves pip's time: Python compiles modules on first import, and most are never imported. TensorFlow's
# are compiled at once: with PYTHONDONTWRITEBYTECODE, set in many containers, each command would recompile them: 7 s.
PIP     = -m pip install --quiet --disable-pip-version-check --no-compile
INSTALL = $(RUN) $(PIP)

DATASET   ?= cpython
OUTPUT    ?= data/$(DATASET)
TOKENIZER ?=
WORKERS   ?=
SOURCE    ?=
WIKITEXT  ?=

.PHONY: help docs setup setup-dev setup-beam test-beam test-pythons test-cluster tokenizer shards quickstart quick test check lint types format bench preflight-table tpu-check study clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

setup: $(VENV)/.runtime  ## .venv with what users run
setup-dev: $(VENV)/.dev  ## .venv with tests, linters and reference implementations

$(VENV)/.runtime: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	  || { echo "error: PYTHON=$(PYTHON) is not CPython 3.11 to 3.13; name one: PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(RUN) || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	$(INSTALL) -r requirements.txt
	@PYTHONDONTWRITEBYTECODE= TF_CPP_MIN_LOG_LEVEL=3 $(RUN) -c 'import keras, tensorflow_text' 2> $(VENV)/.import.log \
	  || { cat $(VENV)/.import.log >&2; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt requirements-preflight.txt requirements-plots.txt requirements-docs.txt
	$(INSTALL) -r requirements-dev.txt
	@touch $@

setup-beam: build/beam/.ready  ## build/beam, an environment with Apache Beam (docs/beam.md)

build/beam/.ready: requirements-beam.txt
	$(PYTHON) -m venv build/beam
	build/beam/bin/python $(PIP) -r requirements-beam.txt
	@touch $@

test-beam: $(VENV)/.dev build/beam/.ready  ## compare Beam's shards with the local engine's
	$(RUN) -m pytest tests/pipeline/data/sharding/test_beam.py

test-pythons: $(VENV)/.dev  ## what users run, under PYTHONS (python3.12 python3.13); minutes
	TEST_PYTHONS="$(PYTHONS)" $(RUN) -m pytest tests/test_pythons.py

test-cluster: $(VENV)/.dev  ## training on TensorFlow servers, one lost in each phase; minutes
	TEST_CLUSTER=1 $(RUN) -m pytest tests/pipeline/training/test_cluster.py

tokenizer: $(VENV)/.runtime  ## a byte-level BPE of 8,192 entries from the embedded corpus
	$(RUN) -m pipeline.tokenizer --output=data/tokenizers/cpython-8192.json --size=8192

shards: $(VENV)/.runtime  ## shards of DATASET (default cpython) from SOURCE in OUTPUT
	$(RUN) -m pipeline.shard --gin_file=datasets/$(DATASET).gin --output="$(OUTPUT)" \
	  $(if $(SOURCE),--source="$(SOURCE)") $(if $(WORKERS),--workers=$(WORKERS)) \
	  $(if $(TOKENIZER),--gin_param=shard.tokenizer=$(TOKENIZER))

quickstart: $(VENV)/.runtime  ## tokenizer, shards and a trained ALGPT2 in a few minutes
	$(RUN) -m tools.quickstart

# Three at a time on two cores: some tests wait for processes and this machine's network.
test: $(VENV)/.dev  ## all tests; a quarter of an hour on two cores
	$(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=30 $(TESTS)

quick: TESTS = --quick -q -rfE
quick: lint types test  ## lint, types and tests without TensorFlow; a minute

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test  ## what CI runs: lint, types and all tests

format: $(VENV)/.dev  ## format the files with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## compare with the usual tools in one run
	$(RUN) -m tools.bench

preflight-table: $(VENV)/.dev  ## docs/preflight.md from the real TPU compiler; hours
	$(RUN) -m tools.preflight_table --output=docs/preflight.md --readme=README.md --pods=docs/pods.md

study: $(VENV)/.runtime  ## docs/study.md from KERNEL=FOLDER and WIKITEXT=GLOB; 9 hours
	$(INSTALL) -r requirements-plots.txt
	$(RUN) -m tools.study.run --run_dir=runs/study --page=docs/study.md $(if $(KERNEL),--kernel='$(KERNEL)') $(if $(WIKITEXT),--wikitext='$(WIKITEXT)')

docs: $(VENV)/.runtime  ## the pages as a site in build/site; dead links are errors
	$(INSTALL) -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet
	@echo "wrote build/site/index.html"

tpu-check: $(VENV)/.runtime  ## check that the TPU takes the step's ops; two minutes
	$(RUN) -m tools.tpu_check

clean:  ## remove .venv and caches; data/ and runs/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
