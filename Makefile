# Targets for people; `make help` lists them.
SHELL := bash
.DEFAULT_GOAL := help
CARGO ?= cargo
# Kills of `make chaos`, seeds of `make sim` for each kind and the first of them, seconds of `make fuzz` for each target.
KILLS ?= 20
SEEDS ?= 700
FIRST ?= 1
FUZZ_SECONDS ?= 60

.PHONY: check-api help deps build run cluster test check-cloud deny fmt lint doc check-fuzz fuzz bench bench-cluster bench-rollout bench-lag chaos flood sim instructions paho paho-cluster clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

deps: ## Install what the tests and `make run` need and this machine lacks
	scripts/deps

build: ## Release binaries of broker, bigquery-adapter and loadtest, in target/release
	$(CARGO) build --release --locked

run: deps ## Broker, adapter and a fleet that replays real measurements, then an SQL answer (KEEP=1 leaves them running)
	KEEP=$(KEEP) scripts/run

cluster: deps ## Redis, replicas, load balancer, adapter and fleet; a replica dies, another joins, the SQL answer is exact (KEEP=1, SINK=bigquery)
	KEEP=$(KEEP) SINK=$(SINK) scripts/cluster

test: deps ## Everything: unit, property, conformance and end-to-end tests with foreign clients
	scripts/test

check-cloud: deps ## Image, Terraform, manifests, alerts and dashboards, without a cloud; and that planted mistakes in them are found (CHECKS="terraform")
	scripts/check-cloud $(CHECKS)

deny: ## Advisories, licences, sources and bans of all dependencies, and that planted faults of each kind are found
	scripts/deny

fmt: ## Format the code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

lint: ## Formatting and clippy, warnings as errors, in every target of the workspace
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

check-fuzz: ## The fuzz targets compile (`make fuzz` runs them)
	$(CARGO) check --manifest-path fuzz/Cargo.toml --locked

doc: ## Rustdoc, warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

fuzz: ## Fuzz each target for FUZZ_SECONDS (default 60)
	scripts/fuzz $(FUZZ_SECONDS)

bench: deps ## Messages per second and CPU per message beside mosquitto, saved under loadtest/runs
	$(CARGO) build --profile dist --locked -p dunlin-broker -p dunlin-loadtest
	target/dist/loadtest bench --scenario loadtest/scenarios/bench/table.toml

bench-cluster: deps build ## CPU per message of a cluster, by role, its latency and how it starts; figures in docs/benchmarks.md
	$(CARGO) build --release --locked -p dunlin-loadtest --example cluster_start --example tap_reader
	scripts/bench-cluster

bench-rollout: deps ## A rolling restart and a scale-down under CLIENTS (default 5000) clients: nothing lost or twice, reconnects a second within PACE (100)
	CLIENTS=$(CLIENTS) PACE=$(PACE) scripts/bench-rollout

bench-lag: deps build ## RATE (default 100000) messages a second for DURATION (60) seconds into a tap: how far the adapter is behind, CPU per row of each part
	scripts/bench-lag

chaos: deps ## KILLS (default 20) faults of each kind under load: nothing acknowledged may be missing, no QoS 2 message or row twice
	CHAOS_KILLS=$(KILLS) $(CARGO) test --locked -p dunlin-broker -p dunlin-bigquery-adapter --test e2e --test cluster --test chaos -- \
		--nocapture --test-threads 1 chaos

flood: deps build ## ATTACKERS (default 1000) of six kinds beside HONEST (default 1000) clients for DURATION (default 30) seconds: latency and memory, nothing lost
	FLOOD_BROKER=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release/broker FLOOD_ATTACKERS=$(or $(ATTACKERS),1000) FLOOD_HONEST=$(or $(HONEST),1000) \
		FLOOD_CALM=10 FLOOD_SECONDS=$(or $(DURATION),30) $(CARGO) test --locked -p dunlin-broker --test edge -- --nocapture flood

# Optimised, a seed takes a tenth of a second; that is worth the build from some hundred seeds on. Assertions stay.
sim: ## SEEDS (default 700) simulated clusters of each kind, from seed FIRST on: storms, failovers that lose writes, shared groups, no faults
	CARGO_PROFILE_DEV_OPT_LEVEL=1 SIM_SEEDS=$(SEEDS) SIM_FIRST=$(FIRST) $(CARGO) test --locked -p dunlin-broker --test sim -- \
		--nocapture --test-threads 1 every_promise_is_kept

instructions: deps ## Instructions of the broker's hot paths, held against their baseline (UPDATE=1 writes it)
	UPDATE=$(UPDATE) scripts/instructions

check-api: ## schemathesis against the administration of a broker, by broker/src/admin/openapi.json (EXAMPLES=15)
	scripts/check-api $(EXAMPLES)

paho: build ## The Eclipse Paho interoperability suites, unmodified, from PAHO=<checkout of paho.mqtt.testing>
	scripts/paho $(PAHO)

paho-cluster: deps build ## The same against three replicas behind a balancer that deals connections in turn
	scripts/paho-cluster $(PAHO)

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf run run-cluster run-paho-cluster run-rollout
