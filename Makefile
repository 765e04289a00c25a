# The one entry point. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A target directory outside the tree can be given with CARGO_TARGET_DIR, as CI does.
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO := cargo

.PHONY: help setup tools run demo test check fmt bench openapi access fuzz-api services-up services-down chaos soak clean

help: ## Lists the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what the build needs and is missing: a C compiler
	@deploy/setup.sh

tools: setup ## Installs what only tests need, outside the tree: client generators, linters
	@deploy/tools.sh

# On a developer's machine steps call receivers on the same machine; whoever wants it otherwise sets the variable.
run: export FLOWMATE__CONNECTORS__PRIVATE_TARGETS ?= 127.0.0.0/8
run: setup ## Builds and starts the server with embedded defaults; steps may call 127.0.0.0/8
	$(CARGO) build --release -p flowmate
	exec $(TARGET)/release/flowmate

demo: setup ## Plays the main story against a fresh server and a separate receiver
	$(CARGO) build --release -p flowmate -p flowmate-devtools --bin flowmate --bin flowmate-demo
	$(TARGET)/release/flowmate-demo

test: tools ## Runs all tests, in both shapes
	@deploy/test.sh

check: setup ## Formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## Formats the code
	$(CARGO) fmt --all

bench: setup ## Measures FlowMate beside its ceilings; BENCH=--json prints JSON, BENCH=--distributed adds that shape
	$(CARGO) build --release -p flowmate -p flowmate-devtools --bin flowmate --bin flowmate-bench
	$(TARGET)/release/flowmate-bench $(BENCH)

openapi: setup ## Writes openapi/*.json anew
	UPDATE_OPENAPI=1 $(CARGO) test -p flowmate --test it -- specifications_in_the_tree

access: setup ## Writes the table in docs/access.md anew: who may do what
	UPDATE_ACCESS=1 $(CARGO) test -p flowmate --test it -- matrix::
	git diff --stat docs/access.md

fuzz-api: tools ## Looks long for answers that the specification does not describe; FUZZ_EXAMPLES=200, FUZZ_SEED=…
	$(CARGO) build -p flowmate
	deploy/fuzz-api.sh $(TARGET)/debug/flowmate

chaos: tools ## Lets services, broker and database die under load, and looks whether anything was lost
	$(CARGO) build --release -p flowmate -p flowmate-devtools --bin flowmate --bin flowmate-chaos
	$(TARGET)/release/flowmate-chaos

soak: setup ## Lets a played broker go away fifty times, and looks whether librdkafka's clients come back: for its version
	$(CARGO) test -p flowmate-bus --features kafka --lib -- --ignored --nocapture soak_

services-up: ## Starts a real Kafka and a MongoDB stand-in on loopback, for tests and for trying the distributed shape
	@deploy/services/services.sh up

services-down: ## Stops them and removes their data
	@deploy/services/services.sh down

clean: ## Removes what was built
	$(CARGO) clean
