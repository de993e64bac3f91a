# Tidegauge. `make demo` and `make test` do all of their own set-up; `make` lists everything.

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Of the tests: each takes about 2 GB.
PROCESSES ?= 2
# How `make lock` resolves.
LOCKED := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
PIP_AUDIT := 2.10.1
# The first of these that is a supported Python; `make PYTHON=/path/to/python ...` names another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Tidegauge needs Python 3.11, 3.12 or 3.13; none was found (make PYTHON=... names one)" >&2; exit 2; }
	@echo "setting up $(VENV) with the locked dependencies (once; some 3 GB)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(READY) ## Make the virtual environment with the locked dependencies

.PHONY: demo
demo: $(READY) ## Run the whole path on real data: ingest, train, push, serve, stream, score, verify
	@$(BIN)/tidegauge demo

.PHONY: simulate
simulate: $(READY) ## Watch the closed loop: drift, retraining, a bad model and its rollback
	@$(BIN)/tidegauge simulate

.PHONY: test
test: $(READY) ## Run the tests, with a real Kafka and the real model server
	@$(BIN)/python -m pytest -q --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations=10

.PHONY: test-slow
test-slow: $(READY) ## Run the long tests and soaks too
	@$(BIN)/python -m pytest -q -m "slow or not slow" --timeout 3600

.PHONY: lint
lint: $(READY) ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .

.PHONY: types
types: $(READY) ## Check types
	@$(BIN)/mypy

.PHONY: imports
imports: $(READY) ## Check which room imports which
	@$(BIN)/lint-imports --no-logo

.PHONY: flink
flink: $(READY) ## Start Flink and Beam's job server on this machine, and say how to submit an ingest to them
	@$(BIN)/python -m deploy.local.flink

.PHONY: picture
picture: $(READY) ## Make the docs' pictures of the live page (with Debian's chromium)
	@$(BIN)/python -m tests.dashboard_picture

.PHONY: wheel
wheel: $(READY) ## Build the wheel: for the images, and for remote Beam workers (--extra_package)
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build/lib build/bdist.*
	@ls dist/*.whl

.PHONY: images
images: wheel ## Build the images for real, as root, with Debian's buildah and debootstrap (BASE=image: on another base)
	@$(BIN)/python -m deploy.images $(if $(BASE),--base $(BASE))

.PHONY: audit
audit: ## Look for known vulnerabilities in the locked dependencies (needs the network)
	@$(PYTHON) -m venv --clear build/audit
	@build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT)
	@build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock \
		|| { echo "make audit: what is listed above is vulnerable; or, if nothing is, it could not be looked up" >&2; exit 2; }

.PHONY: bench-ingest
bench-ingest: $(READY) ## Measure the ingest against the plain Beam recipe and the physical floor
	@$(BIN)/python -m tests.benchmarks.bench_ingest

.PHONY: bench-reading
bench-reading: $(READY) ## Measure the reader: windows a second, and an epoch against arrays in memory
	@$(BIN)/python -m tests.benchmarks.bench_reading

.PHONY: bench-training
bench-training: $(READY) ## Measure training against plain Keras on arrays (DATA=folder, see bench-accuracy; NEURALFORECAST=python)
	@$(BIN)/python -m tests.benchmarks.bench_training --data $(DATA) \
		$(if $(NEURALFORECAST),--neuralforecast $(NEURALFORECAST))

.PHONY: bench-serving
bench-serving: $(READY) ## Measure the model server
	@mkdir -p build
	@$(BIN)/python -m tests.benchmarks.bench_serving --json build/bench-serving.json

.PHONY: bench-accuracy
bench-accuracy: $(READY) ## Measure the models' accuracy on published data (DATA=folder; ONLY='etth1/96/*', SEEDS='0 1 2')
	@test -n "$(DATA)" || { echo "expected DATA=folder with the published files; tests/benchmarks/accuracy says which" >&2; exit 2; }
	@$(BIN)/python -m tests.benchmarks.bench_accuracy --data "$(DATA)" \
		$(if $(ONLY),--only $(foreach pattern,$(ONLY),'$(pattern)')) $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: bench-gpu
bench-gpu: $(READY) ## Measure training on a GPU through JAX, where there is one
	@$(BIN)/python -m tests.benchmarks.bench_gpu

.PHONY: bench-long
bench-long: $(READY) ## Measure long dependencies and what a long past costs (resumes; hours on two cores)
	@$(BIN)/python -m tests.benchmarks.bench_long

.PHONY: bench-live-accuracy
bench-live-accuracy: $(READY) ## Measure the join of predictions with actual values, and drift measures over a year
	@$(BIN)/python -m tests.benchmarks.bench_live_accuracy

.PHONY: bench-streaming
bench-streaming: $(READY) ## Measure the live path with a real Kafka: restarts, replays, memory, rates, latency
	@mkdir -p build
	@$(BIN)/python -m tests.benchmarks.bench_streaming --json build/bench-streaming.json

.PHONY: bench-capacity
bench-capacity: $(READY) ## Measure what `tidegauge capacity` counts with, for --costs (goes on where it was stopped)
	@mkdir -p build
	@$(BIN)/python -m tests.benchmarks.bench_capacity --work build/bench-capacity.json --output build/costs.json

.PHONY: lock
lock: ## Resolve the dependencies again (needs uv)
	uv pip compile pyproject.toml --all-extras $(LOCKED) --output-file requirements.lock
	uv pip compile pyproject.toml --extra stream --extra dashboard --excludes deploy/images/streaming.excludes \
		--constraint requirements.lock $(LOCKED) --output-file deploy/images/streaming.lock
	uv pip compile pyproject.toml --extra batch --extra train --extra stream \
		--constraint requirements.lock $(LOCKED) --output-file deploy/images/batch.lock
	uv pip compile pyproject.toml --extra serve \
		--constraint requirements.lock $(LOCKED) --output-file deploy/images/model-server.lock
	echo tensorflow | uv pip compile - --no-deps \
		--constraint requirements.lock $(LOCKED) --output-file deploy/images/protos.lock

.PHONY: ci
ci: lint types imports test ## Everything that must pass

.PHONY: clean
clean: ## Remove what was built, the local stack and its data
	@if [ -x $(BIN)/tidegauge ]; then $(BIN)/tidegauge down; fi
	rm -rf $(VENV) .tidegauge build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
