# The one entry point. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A target directory outside the tree can be given with CARGO_TARGET_DIR, as CI does.
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO := cargo

.PHONY: help setup run demo test check fmt bench openapi clean

help: ## Lists the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what the build needs and is missing: a C compiler
	@deploy/setup.sh

run: setup ## Builds and starts the server with embedded defaults
	$(CARGO) build --release -p flowmate
	exec $(TARGET)/release/flowmate

demo: setup ## Plays the main story against a fresh server and a separate receiver
	$(CARGO) build --release -p flowmate -p flowmate-devtools --bin flowmate --bin flowmate-demo
	$(TARGET)/release/flowmate-demo

test: setup ## Runs all tests
	$(CARGO) test --workspace --all-targets -- --nocapture

check: setup ## Formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## Formats the code
	$(CARGO) fmt --all

bench: setup ## Measures FlowMate beside its ceilings; BENCH=--json prints JSON
	$(CARGO) build --release -p flowmate -p flowmate-devtools --bin flowmate --bin flowmate-bench
	$(TARGET)/release/flowmate-bench $(BENCH)

openapi: setup ## Writes openapi/flowmate.json anew
	$(CARGO) build -p flowmate
	$(TARGET)/debug/flowmate openapi > openapi/flowmate.json

clean: ## Removes what was built
	$(CARGO) clean
