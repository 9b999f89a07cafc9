# `make demo` runs the main job on embedded defaults; `make test` passes all tests. Each target makes the environment it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := build/uv/bin/uv
DEMO := build/demo

.PHONY: demo shapes control-plane test test-unit test-operator test-workloads test-specs test-kills test-training lint generate bench bench-operator ablations images cluster cluster-packages cluster-images cluster-down test-node test-node-here test-node-kills demo-cluster chart-test chart-tools lock clean help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

shapes: $(VENV)/.ready  ## Build the synthetic world that the demo runs on
	$(BIN)/feedback shapes

demo: $(VENV)/.ready  ## One whole iteration with real models on this machine, with a report in build/demo
	$(BIN)/feedback shapes
	$(BIN)/feedback run examples/shapes.yaml --out $(DEMO)

test: lint test-unit chart-test  ## Everything; two at a time of what takes long, each told when it is done
	$(MAKE) --jobs=2 --output-sync --assume-old=control-plane test-operator test-workloads test-node-here test-kills test-training

test-unit: $(VENV)/.ready  ## Pure code, in seconds
	$(BIN)/python -m pytest tests/unit -q

control-plane: | $(UV)  ## etcd, Kubernetes and KWOK for the tests, built once from Go modules
	$(PYTHON) -m tests.cluster.binaries

test-operator: $(VENV)/.ready control-plane  ## The operator on a real control plane, whose pods are played
	$(BIN)/python -m pytest tests/integration/operator -q

test-workloads: $(VENV)/.ready  ## Stages, engines, artifacts and server, with real vLLM, TRL and S3
	$(BIN)/python -m pytest tests/integration --ignore tests/integration/operator -q

test-specs: $(VENV)/.ready control-plane  ## 10,000 generated specs: the API server, feedback validate and the planner agree
	FEEDBACK_TEST_SPECS=10000 $(BIN)/python -m pytest tests/integration/operator/test_validation.py -q -s

test-kills: $(VENV)/.ready  ## kill -9 of stage and runner, at random moments in every stage
	$(BIN)/python -m pytest tests/e2e/test_kills.py -q -s

test-training: $(VENV)/.ready  ## Training and checkpoints on every path: ZeRO, processes, nodes, LoRA, resumed
	$(BIN)/python -m pytest tests/e2e --ignore tests/e2e/test_kills.py -q

lint: $(VENV)/.ready  ## ruff, mypy, import-linter, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m feedback_operator.generate --check

generate: $(VENV)/.ready  ## Make the CRD, its reference and the RBAC manifests from the sources
	$(BIN)/python -m feedback_operator.generate

bench: $(VENV)/.ready  ## Ratios against the best alternatives, into build/bench.json
	$(BIN)/feedback shapes
	$(BIN)/python -m benchmarks

bench-operator: $(VENV)/.ready control-plane  ## The operator at 10 to 2,000 iterations, into build/bench-operator.json
	$(BIN)/python -m benchmarks.operator

ablations: $(VENV)/.ready  ## The method's ablations on the shapes world, into build/ablations
	$(BIN)/feedback shapes
	$(BIN)/python -m benchmarks.ablations

IMAGES ?= operator generate train
images:  ## Container images, by docker, podman or buildah (VARIANT=cpu, REGISTRY, TAG, BASE: see images/build)
	images/build $(IMAGES)

NODE := $(BIN)/python -m tests.cluster.node
cluster-packages: $(VENV)/.ready  ## Debian packages that a node on this machine needs
	$(NODE) packages

cluster: $(VENV)/.ready control-plane cluster-packages  ## A Kubernetes with a real node on this machine, in namespaces of its own (root)
	$(NODE) up

cluster-images: cluster  ## Build the images and bring them to that node, without a registry
	$(NODE) images

ON_NODE := trap '$(NODE) down' EXIT && $(NODE) up && $(NODE) images && $(BIN)/python -m pytest -q -s
test-node: $(VENV)/.ready control-plane cluster-packages chart-tools  ## On a real node: from the chart to an endpoint that rolls over, training on two pods
	$(ON_NODE) tests/node --ignore tests/node/test_kills.py

test-node-kills: $(VENV)/.ready control-plane cluster-packages chart-tools  ## On a real node: whatever is killed, an iteration ends the same; tells the work redone
	$(ON_NODE) tests/node/test_kills.py

test-node-here: $(VENV)/.ready  # where this machine can have a node; else it says why not
	@if $(NODE) able; then $(MAKE) test-node; else echo "the tests on a real node were left out"; fi

demo-cluster: cluster-images chart-tools  ## docs/quickstart.md in one go on that node, or on your own (FEEDBACK_CLUSTER=own KUBECONFIG=…)
	KUBECONFIG=$(if $(filter own,$(FEEDBACK_CLUSTER)),$(KUBECONFIG),$(CURDIR)/build/cluster/kubeconfig) \
	  PATH=$(CURDIR)/$(BIN):$(CURDIR)/build/chart/bin:$$PATH examples/quickstart/demo

cluster-down: $(VENV)/.ready  ## End that node and remove all that it left
	$(NODE) down

chart-tools: | $(UV)  ## Helm and kubeconform for the chart's tests, built once from Go modules
	$(PYTHON) -m tests.chart.tools

chart-test: $(VENV)/.ready chart-tools control-plane  ## The Helm chart: lint, templates, schemas, and on a real API server
	$(BIN)/python -m pytest tests/chart -q

RESOLVE = $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate \
  --python-version 3.11 --override requirements/overrides.txt
lock: $(UV)  ## Resolve the hash-locked requirements anew; images have the versions that the tests run, where they can
	$(RESOLVE) --extra operator --extra generate-cpu --extra train --extra local --extra dev pyproject.toml -o requirements/local.txt
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
