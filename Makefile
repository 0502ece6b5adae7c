# What a person types. Each target brings what it needs: on Debian as root it is installed,
# elsewhere the command says what is missing. Downloads and builds are kept in the cache
# folder: $SENSORLOG_CACHE, or $XDG_CACHE_HOME/sensorlog, or ~/.cache/sensorlog.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

CLUSTER ?= sensorlog
# The stubs import each other as sensorlog.rpc: protoc sees the contract under that path.
STUBS := packages/sensorlog/src
CACHE := $(or $(SENSORLOG_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sensorlog)

# The cluster of this project and never the one that your kubectl points at.
export KUBECONFIG := $(CACHE)/kubeconfig-$(CLUSTER)
export PATH := $(CACHE)/bin:$(PATH)
export SENSORLOG_CACHE := $(CACHE)

##@ See it

.PHONY: demo
demo: uv deploy-tools cluster images  ## From nothing to readings that come back over gRPC, on a real cluster
	@k8s/demo.sh $(CLUSTER)

.PHONY: dev
dev: tools cluster backing-images  ## Build, deploy and follow: a changed line is live in the cluster in seconds
	@k8s/images/build.sh load $(CLUSTER)
	skaffold dev --kube-context kind-$(CLUSTER)

.PHONY: down
down:  ## Delete the clusters and the test containers
	k8s/kind/cluster.sh down

.PHONY: purge
purge:  ## Like down; also the images, the cache and a Docker daemon started from here
	k8s/kind/purge.sh

##@ Change it

# Processes that share the tests. They wait more than they work: 3 suit a machine of 2 cores.
TEST_PROCESSES ?= 3
IN_PARALLEL = -n $(TEST_PROCESSES) --dist loadscope

.PHONY: test
test: uv deploy-tools promtool node-image backing-images  ## All tests: unit, integration, end to end
	uv run pytest $(IN_PARALLEL) tests/unit tests/integration tests/e2e

.PHONY: test-unit
test-unit: uv promtool  ## Seconds: plans, decoding, models, alerts
	uv run pytest tests/unit

.PHONY: test-integration
test-integration: uv node-image backing-images  ## A real broker and a real database in containers
	uv run pytest $(IN_PARALLEL) tests/integration

.PHONY: test-e2e
test-e2e: uv deploy-tools node-image backing-images  ## The whole product on a kind cluster of its own
	uv run pytest tests/e2e

SECONDS ?= 60

.PHONY: fuzz
fuzz: uv  ## Fuzz the decoder, guided by coverage; SECONDS=600 for longer than a minute a target
	uv run --group fuzz python tests/fuzz/run.py --seconds $(SECONDS)

.PHONY: lint
lint: uv  ## Style, types, import rules, shell scripts
	uv run ruff check .
	uv run ruff format --check .
	uv run mypy
	uv run lint-imports
	uv run shellcheck -x $$(git ls-files '*.sh' .ci/run k8s/kind/docker/runc-without-sys-resource)

.PHONY: generate
generate: uv  ## Write the generated files again: gRPC stubs, CRD, reference pages
	uv run python -m grpc_tools.protoc -Isensorlog/rpc=api/proto/logger/service/v1 \
	  --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) --grpc_python_out=$(STUBS) --mypy_grpc_out=quiet:$(STUBS) \
	  sensorlog/rpc/logger.proto
	uv run python -m sensorlog_operator.crd > charts/sensorlog/files/sensorlogpipelines.yaml
	uv run python -m sensorlog_operator.reference > docs/reference.md
	uv run python -m sensorlog.reference sensorlog_operator sensorlog_ingest sensorlog_query > docs/settings.md

##@ Measure it

BENCH := env PYTHONPATH=tests uv run python -m

.PHONY: bench-ingest
bench-ingest: uv docker backing-images  ## Ingest beside raw COPY, in one run; ARGS="--help" tells what can be chosen
	@$(BENCH) benchmarks.ingest $(ARGS)

.PHONY: bench-query
bench-query: uv docker backing-images  ## Exports beside plain COPY, calls beside an empty method, in one run
	@$(BENCH) benchmarks.query $(ARGS)

.PHONY: bench-latest
bench-latest: uv docker backing-images  ## What the last reading of each sensor costs the database, however much is stored
	@$(BENCH) benchmarks.latest $(ARGS)

.PHONY: bench-operator
bench-operator: uv deploy-tools node-image backing-images  ## An operator with 1,000 pipelines: CPU, memory, and every call it makes
	@$(BENCH) benchmarks.fleet $(ARGS)

.PHONY: bench-peers
bench-peers: uv docker backing-images  ## Ingest beside Telegraf, tuned to its best: speed, kills, malformed messages, an outage
	@benchmarks/telegraf/build.sh
	@$(BENCH) benchmarks.peers $(ARGS)

##@ The ground

.PHONY: tools
tools:  ## kind, kubectl, helm, skaffold and grpcurl of usable versions
	@k8s/kind/tools.sh kind kubectl helm skaffold grpcurl

# Skaffold takes minutes to build and only `make dev` needs it.
.PHONY: deploy-tools
deploy-tools:
	@k8s/kind/tools.sh kind kubectl helm grpcurl

# Tries the alerts. Its build takes about two minutes, once.
.PHONY: promtool
promtool:
	@k8s/kind/tools.sh promtool

.PHONY: uv
uv:
	@k8s/kind/tools.sh uv

.PHONY: docker
docker:  ## A Docker daemon that answers
	@k8s/kind/docker.sh up

.PHONY: node-image
node-image: docker
	@k8s/kind/cluster.sh node-image

.PHONY: cluster
cluster: docker  ## A kind cluster; CLUSTER=name for another than sensorlog
	@k8s/kind/cluster.sh up $(CLUSTER)

.PHONY: backing-images
backing-images: docker
	@k8s/images/build.sh backing

.PHONY: images
images: backing-images  ## Kafka, TimescaleDB and the three images of the product
	@k8s/images/build.sh services

.PHONY: help
help:  ## This text
	@awk 'BEGIN {FS = ":.*  ## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*  ## / {printf "  make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
