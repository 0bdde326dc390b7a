# Build output stays outside the checkout, so that a fresh clone starts warm.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lazaret
export LAZARET_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
PARTS := $(CACHE)/parts
export PATH := $(PARTS)/cargo/bin:$(PATH)
BIN := $(CARGO_TARGET_DIR)/debug/lazaret
SCALE ?= 10m

.PHONY: run test setup fmt lint deny unit drivers bench install

## Builds, makes sample data, serves on 127.0.0.1:32010 and prints how to connect.
# Always the whole workspace: another selection has other features, and compiles every dependency again.
run:
	cargo build --locked --workspace
	bench/run-sample.sh "$(BIN)" "$(CARGO_TARGET_DIR)/debug/lazaret-bench"

## Everything that CI runs.
test: setup fmt lint deny unit drivers

## What the tests need beside the toolchains; quick when it is there.
setup:
	tests/parts/setup.sh

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny:
	cargo deny --log-level error check bans licenses sources

unit:
	cargo test --locked --workspace --lib --bins

drivers:
	cargo build --locked --workspace
	LAZARET_BIN="$(BIN)" LAZARET_BENCH_BIN="$(CARGO_TARGET_DIR)/debug/lazaret-bench" $(PARTS)/venv/bin/python -m pytest -q tests/python

## EpiBench against DuckDB on the same files: make bench SCALE=10m
bench:
	cargo build --locked --workspace --release
	$(PARTS)/venv/bin/python bench/run.py "$(CARGO_TARGET_DIR)/release" "$(SCALE)"

## The release binary, in ~/.cargo/bin.
install:
	cargo install --locked --path server
