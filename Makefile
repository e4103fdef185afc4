# make help lists the targets. Everything runs in .venv, which `make setup` creates and keeps.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.pcs-setup
PROJECTS := pyproject.toml $(sort $(wildcard plugins/*/pyproject.toml optimizers/*/pyproject.toml))
EDITABLES := -e . $(foreach p,$(filter-out pyproject.toml,$(PROJECTS)),-e $(patsubst %/pyproject.toml,%,$(p)))
CONSTRAINTS := requirements/constraints.txt
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# two workers, one thread each: torch's own threads would fight over the cores. A worker that dies ends the run
# and its test is named: a new one would be waited for without an end. Files run in their order: by default those of
# few tests come last, which are the long ones, and one worker would end alone
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
	HF_HUB_OFFLINE=1 $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -q

.PHONY: help setup tools hashes sbom audit demo test test-all test-lowest lint format docs docs-check changelog-draft bench bench-inference bench-training results evidence adapters mutants reliability soak clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## create .venv and install everything into it (again only when a pyproject changed)

$(STAMP): $(PROJECTS) $(CONSTRAINTS) scripts/requirements.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "PCS needs Python 3.11 or newer; say which: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing torch (the large part)"
	@$(PIP) install -c $(CONSTRAINTS) torch torchvision
	@echo "installing the other third-party packages"
	@$(PY) scripts/requirements.py > $(VENV)/third-party.txt
	@$(PIP) install -c $(CONSTRAINTS) -r $(VENV)/third-party.txt
	@echo "installing PCS and its plugins from this checkout"
	@$(PIP) install --no-deps --no-build-isolation $(EDITABLES)
	@touch $@

demo: setup ## personalise a shipped subject and draw it, into demo/
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" scripts/demo.sh

test: lint ## lint, then every test but the slow ones
	$(PYTEST) -m "not slow"

test-all: lint ## lint, then every test, and 200 drawn inputs of each kind in place of 20
	PCS_EXAMPLES=200 $(PYTEST)

TOOLS := .venv-tools
TOOL_STAMP := $(TOOLS)/.pcs-tools

tools: $(TOOL_STAMP) ## what releases, audits and fuzzing need, into .venv-tools

$(TOOL_STAMP):
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip --disable-pip-version-check --quiet install \
		"cyclonedx-bom>=7,<8" "pip-audit>=2.10,<3" "uv>=0.9"
	@$(TOOLS)/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: "atheris>=3,<4" \
		|| echo "atheris has no build for this system: fuzzing changes files by chance alone"
	@touch $@

hashes: setup tools ## write requirements/hashes.txt: constraints.txt with the hashes of every file
	@$(PY) scripts/requirements.py > $(VENV)/third-party.txt
	@head -2 requirements/hashes.txt > $(VENV)/hashes.txt
	@$(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url -c $(CONSTRAINTS) $(VENV)/third-party.txt >> $(VENV)/hashes.txt
	@mv $(VENV)/hashes.txt requirements/hashes.txt

sbom: setup tools ## write build/sbom.cdx.json: what is installed here, as CycloneDX
	@mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
		-o build/sbom.cdx.json $(PY)

audit: setup tools ## fail if a vulnerability is known of a version that is installed
	$(PY) scripts/audit.py --strict

LOWEST := .venv-lowest
LOWEST_TESTS := plugins/pcs-folders tests/storage tests/backbone tests/contract/test_every_technique.py \
	plugins/pcs-diffusers plugins/pcs-weights plugins/pcs-tokens plugins/pcs-formats
# it compares with lycoris-lora, whose kernels need a newer torch than the lowest
LOWEST_LEFT_OUT := --ignore=plugins/pcs-formats/tests/test_import_lycoris.py

test-lowest: ## the core, the families and two groups of techniques on the lowest versions, in .venv-lowest
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip --quiet install -r requirements/lowest.txt
	$(LOWEST)/bin/python -m pip --quiet install --no-deps --no-build-isolation \
		-e . $(foreach p,$(filter-out pyproject.toml optimizers/%,$(PROJECTS)),-e ./$(patsubst %/pyproject.toml,%,$(p)))
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(LOWEST)/bin/python -m pytest -q -m "not slow" $(LOWEST_LEFT_OUT) $(LOWEST_TESTS)

lint: setup ## ruff, formatting, what may be imported, types, declared dependencies, known vulnerabilities
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" lint-imports
	$(PY) scripts/import_contracts.py build/import-contracts.toml
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" lint-imports build/import-contracts.toml
	$(PY) -m mypy
	$(PY) scripts/declared.py
	$(PY) scripts/audit.py

format: setup ## let ruff mend and format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup ## regenerate the generated parts of the docs
	$(PY) scripts/docs.py

changelog-draft: setup ## print what the coming version changes, from changelog.d
	$(PY) -m towncrier build --draft --version next

docs-check: setup ## fail if a generated part of the docs is out of date
	$(PY) scripts/docs.py --check

results: setup ## run the benchmark and write its report, the results section and evidence (about an hour)
	scripts/benchmark.sh build/benchmark; code=$$?; [ $$code -eq 0 ] || [ $$code -eq 3 ]
	$(PY) scripts/results.py build/benchmark/run
	$(PY) scripts/docs.py

evidence: SYSTEMS ?=
evidence: setup ## renew the evidence of systems whose recipe or code changed (SYSTEMS=a,b; goes on where it was)
	$(PY) scripts/evidence.py --systems "$(SYSTEMS)"
	$(PY) scripts/docs.py

adapters: setup ## train the pre-trained systems on mini, measure and keep them (three quarters of an hour on two cores)
	$(PY) scripts/adapters.py

bench: setup ## time the hooks and the loops
	$(PY) scripts/bench.py

bench-inference: MODEL ?= mini
bench-inference: OUT ?= docs/benchmarks/inference.json
bench-inference: setup ## time the engines side by side (MODEL=mini|sd15, OUT=FILE; eight minutes)
	$(PY) scripts/bench_inference.py --model $(MODEL) --out $(OUT)

bench-training: TRAINING ?=
bench-training: setup ## time fits beside diffusers' scripts (TRAINING="--peer-scripts PATH --model mini"; an hour)
	$(PY) scripts/bench_training.py $(TRAINING)

mutants: MUTANTS ?=
mutants: setup ## mutate the techniques and see whether their tests notice (hours; goes on where it was; MUTANTS="--limit 2")
	@$(PIP) install -c $(CONSTRAINTS) "cosmic-ray>=8.7,<9"
	nice -n 15 $(PY) scripts/mutants.py $(MUTANTS)

reliability: SHARE ?= 1/1
reliability: setup ## deaths, kills, full disks, hostile and fuzzed inputs, a soak of ten minutes (40 minutes; SHARE=1/10: a part)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) scripts/nothing_lost.py --share $(SHARE)

soak: setup ## one process at work for an hour: its memory and its files stay what they are
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) scripts/nothing_lost.py --stages soak --minutes 60

clean: ## remove caches and what was built; keeps .venv and .venv-lowest
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)*/*' -prune -exec rm -rf {} +
