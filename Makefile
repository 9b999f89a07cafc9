# `make demo` runs the main job on embedded defaults; `make test` passes all tests. Each target makes the environment it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := build/uv/bin/uv
DEMO := build/demo
RUN := build/run
PARTS := test-operator-faults test-operator test-workloads test-training test-serving test-kills test-models chart-test lint test-unit

.PHONY: demo demo-seeds demo-run shapes control-plane node-programs kueue test test-unit test-operator test-operator-faults test-kueue test-workloads test-serving test-specs test-kills test-training test-models test-long lint lint-here generate bench bench-operator bench-data ablations images cluster cluster-packages cluster-images cluster-down test-node test-node-here test-node-long demo-cluster chart-test chart-tools lock clean help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

shapes: $(VENV)/.ready  ## Build the synthetic world that the demo runs on
	$(BIN)/feedback shapes

demo: $(VENV)/.ready  ## One whole iteration with real models on this machine, with a report in build/demo
	$(BIN)/feedback shapes
	$(BIN)/feedback run examples/shapes.yaml --out $(DEMO)

demo-run: $(VENV)/.ready  ## A run of four chained iterations, until one gains nothing, with a report over all in build/run
	$(BIN)/feedback shapes
	$(BIN)/feedback run examples/run --out $(RUN)

# Tests share two cores with each other: threads that wait for each other within an operation would wait for the others'.
test test-long test-kueue $(PARTS): export OMP_NUM_THREADS = 1
TIMED := $(PYTHON) -m tests.parts

test: $(VENV)/.ready  ## Everything but what is long and says little more; ends with a table of the parts and their minutes
	@rm -f build/parts.jsonl
	@export FEEDBACK_TEST_START=$$(date +%s); $(MAKE) --jobs=4 --keep-going --output-sync $(PARTS); code=$$?; \
	  $(BIN)/python -m tests.parts table; exit $$code

# Those of the operator mostly wait, and so start first; others would take their places while Kubernetes is built.
ifdef FEEDBACK_TEST_START
test-training test-serving test-models test-kills lint test-unit: | control-plane
endif

# Alone it has all processors; beside the other parts of `make test`, one.
test-unit: $(VENV)/.ready  ## Pure code
	$(TIMED) unit $(BIN)/python -m pytest tests/unit -q $(if $(FEEDBACK_TEST_START),,--numprocesses auto)

control-plane: | $(UV)  ## etcd, Kubernetes and KWOK for the tests, built once from Go modules
	$(TIMED) "build of Kubernetes" $(PYTHON) -m tests.cluster.binaries

node-programs: | $(UV)  # and what a node has besides
	$(TIMED) "build of a node's programs" $(PYTHON) -m tests.cluster.binaries node

FAULTS := $(addprefix tests/integration/operator/,test_api_faults.py test_crash_points.py test_failures.py test_leader.py)
test-operator: $(VENV)/.ready control-plane  ## The operator on a real control plane, whose pods are played
	$(TIMED) operator $(BIN)/python -m pytest tests/integration/operator $(addprefix --ignore ,$(FAULTS)) -q

test-operator-faults: $(VENV)/.ready control-plane  ## The same, when something fails: pods, the API server, the operator
	$(TIMED) "operator, faults" $(BIN)/python -m pytest $(FAULTS) -q

kueue: $(VENV)/.ready  # Kueue's manager for test-kueue, built once from its Go module
	$(TIMED) "build of Kueue" $(BIN)/python -m tests.cluster.kueue.build

test-kueue: $(VENV)/.ready control-plane kueue  ## The operator beside a real Kueue: admission, preemption, quotas, queues; its pods are played
	$(TIMED) kueue $(BIN)/python -m pytest tests/kueue -q

SERVING := tests/integration/test_serving.py
test-workloads: $(VENV)/.ready  ## Stages, engines and artifacts, with real vLLM, TRL and S3
	$(TIMED) workloads $(BIN)/python -m pytest tests/integration --ignore tests/integration/operator --ignore $(SERVING) -q

test-serving: $(VENV)/.ready  ## The server, asked by real clients, slow ones and hostile ones
	$(TIMED) serving $(BIN)/python -m pytest $(SERVING) -q

test-kills: $(VENV)/.ready  ## kill -9 of stage or runner, at random moments
	$(TIMED) kills $(BIN)/python -m pytest tests/e2e/test_kills.py -q -s

test-models: $(VENV)/.ready  ## The contract of model families: transformers, vLLM and the trainer compute one model
	$(TIMED) models $(BIN)/python -m pytest tests/models -q

test-training: $(VENV)/.ready  ## Training and checkpoints on every path: ZeRO, processes, nodes, LoRA, resumed
	$(TIMED) training $(BIN)/python -m pytest tests/e2e --ignore tests/e2e/test_kills.py -q

# What `make test` leaves out, by the mark `long`, and what only generates more of the same.
test-long: $(VENV)/.ready control-plane test-specs test-kueue  ## What is slow and says little more than its representative in make test
	$(BIN)/python -m pytest tests/unit tests/integration tests/e2e tests/models -m long -q -s
	@if $(NODE) able; then $(MAKE) test-node-long; else echo "the tests on a real node were left out"; fi

test-specs: $(VENV)/.ready control-plane  ## 10,000 generated specs: the API server, feedback validate and the planner agree
	FEEDBACK_TEST_SPECS=10000 $(BIN)/python -m pytest tests/integration/operator/test_validation.py -q -s

lint: $(VENV)/.ready  ## ruff, mypy, import-linter, generated files
	$(TIMED) lint $(MAKE) lint-here

lint-here:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m feedback_operator.api.generate --check
	$(BIN)/python -m tests.rooms --check

generate: $(VENV)/.ready chart-tools  ## Make the CRD, its reference, the manifests of deploy/ and the picture of rooms from the sources
	$(BIN)/python -m feedback_operator.api.generate
	$(BIN)/python -m tests.chart.plain
	$(BIN)/python -m tests.rooms

bench: $(VENV)/.ready  ## Ratios against the best alternatives, into build/bench.json
	$(BIN)/feedback shapes
	$(BIN)/python -m benchmarks

bench-operator: $(VENV)/.ready control-plane  ## The operator at 10 to 2,000 iterations, into build/bench-operator.json
	$(BIN)/python -m benchmarks.operator

bench-data: $(VENV)/.ready  ## Answers that public benchmarks judge in a minute, and memory of a million rows, into build/bench-data*.json
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.data_sets

SEEDS ?= 3 4 5
demo-seeds: $(VENV)/.ready  ## The demo on a world of each of SEEDS, and README's table, into build/seeds; as many times as long
	$(BIN)/python -m benchmarks.seeds $(SEEDS)

ablations: $(VENV)/.ready  ## The method's ablations on a world of each of SEEDS, into build/ablations; hours
	$(BIN)/python -m benchmarks.ablations $(SEEDS)

IMAGES ?= operator generate train
images:  ## Container images, by docker, podman or buildah (VARIANT=cpu, REGISTRY, TAG, BASE: see images/build)
	images/build $(IMAGES)

NODE := $(BIN)/python -m tests.cluster.node
cluster-packages: $(VENV)/.ready  ## Debian packages that a node on this machine needs
	$(NODE) packages

cluster: $(VENV)/.ready node-programs cluster-packages  ## A Kubernetes with a real node on this machine, in namespaces of its own (root)
	$(NODE) up

cluster-images: cluster  ## Build the images and bring them to that node, without a registry
	$(NODE) images

ON_NODE := trap '$(NODE) down' EXIT && $(NODE) up && $(NODE) images && $(BIN)/python -m pytest -q -s
NODE_NEEDS := $(VENV)/.ready node-programs cluster-packages chart-tools
test-node: $(NODE_NEEDS)  ## On a real node: from the chart to an endpoint that rolls over
	$(ON_NODE) tests/node

test-node-long: $(NODE_NEEDS)  ## The same, and training on two pods, a rollback, and whatever is killed; tells the work redone
	$(ON_NODE) tests/node -m "long or not long"

test-node-here: $(VENV)/.ready  ## test-node where this machine can have a node; else it says why not
	@if $(NODE) able; then $(TIMED) "real node" $(MAKE) test-node; else echo "the tests on a real node were left out"; fi

demo-cluster: cluster-images chart-tools  ## docs/quickstart.md in one go on that node, or on your own (FEEDBACK_CLUSTER=own KUBECONFIG=…)
	KUBECONFIG=$(if $(filter own,$(FEEDBACK_CLUSTER)),$(KUBECONFIG),$(CURDIR)/build/cluster/kubeconfig) \
	  PATH=$(CURDIR)/$(BIN):$(CURDIR)/build/chart/bin:$$PATH examples/quickstart/demo

cluster-down: $(VENV)/.ready  ## End that node and remove all that it left
	$(NODE) down

chart-tools: | $(UV)  ## Helm and kubeconform for the chart's tests, built once from Go modules
	$(TIMED) "build of Helm" $(PYTHON) -m tests.chart.tools

chart-test: $(VENV)/.ready chart-tools control-plane  ## The Helm chart: lint, templates, schemas, and on a real API server
	$(TIMED) chart $(BIN)/python -m pytest tests/chart -q

RESOLVE = $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate \
  --python-version 3.11 --override requirements/overrides.txt
lock: $(UV)  ## Resolve the hash-locked requirements anew; images have the versions that the tests run, where they can
	$(RESOLVE) --extra operator --extra generate-cpu --extra train --extra benchmarks --extra data --extra people --extra local --extra dev pyproject.toml -o requirements/local.txt
	$(RESOLVE) -c requirements/local.txt --extra operator --extra tracing pyproject.toml -o requirements/operator.txt
	$(RESOLVE) -c requirements/local.txt --extra train pyproject.toml -o requirements/train.txt
	$(RESOLVE) -c requirements/local.txt --extra generate-cpu pyproject.toml -o requirements/generate-cpu.txt
	$(RESOLVE) --extra generate pyproject.toml -o requirements/generate-cuda.txt
	$(RESOLVE) -c requirements/local.txt requirements/torch.in -o requirements/torch.txt
	$(RESOLVE) requirements/build.in -o requirements/build.txt

clean:  ## Remove the environment, builds and local state
	rm -rf $(VENV) build dist .feedback

$(VENV)/.ready: requirements/local.txt pyproject.toml | $(UV)
	$(PYTHON) -m venv --clear $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/local.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed; install it, or name it: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "the module venv is missing; install python3-venv" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing; install gcc" >&2; exit 1; }
	$(PYTHON) -m venv --clear build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
