# Build output stays outside the checkout, so that a fresh clone starts warm.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lazaret
export BUILD_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
PARTS := $(CACHE)/parts
export PATH := $(PARTS)/cargo/bin:$(PATH)
BIN := $(CARGO_TARGET_DIR)/debug/lazaret
SCALE ?= 10m
PEERS ?= duckdb,datafusion
SF ?= 10
MINUTES ?= 60

.PHONY: run test setup fmt lint deny unit integration drivers fuzz bench tpch soak install

## Builds, makes sample data, serves on 127.0.0.1:32010 and prints how to connect.
# Always the whole workspace: another selection has other features, and compiles every dependency again.
run:
	cargo build --locked --workspace
	bench/run-sample.sh "$(BIN)" "$(CARGO_TARGET_DIR)/debug/lazaret-bench"

## Everything that CI runs.
test: setup fmt lint deny unit integration drivers

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

# The transcripts, and what SQL cannot say: one test binary, against the real server.
integration:
	cargo build --locked --workspace
	LAZARET_BIN="$(BIN)" LAZARET_BENCH_BIN="$(CARGO_TARGET_DIR)/debug/lazaret-bench" cargo test --locked --workspace --test integration

drivers:
	cargo build --locked --workspace
	LAZARET_BIN="$(BIN)" LAZARET_BENCH_BIN="$(CARGO_TARGET_DIR)/debug/lazaret-bench" $(PARTS)/venv/bin/python -m pytest -q tests/python

## More worlds of the oracle than CI has, of 50 pairs each: make fuzz WORLDS=100000 SEED=1
fuzz:
	LAZARET_ORACLE_WORLDS=$(or $(WORLDS),20000) LAZARET_ORACLE_SEED=$(or $(SEED),$(shell date +%s)) \
	  cargo test --locked --workspace --lib governed_tables_answer_as_their_copies -- --nocapture

## EpiBench with peers on the same files, and what policy costs: make bench SCALE=1b PEERS=duckdb,chdb BENCH="--runs 9"
bench:
	cargo build --locked --workspace --release
	bench/setup.sh "$(PEERS)"
	$(PARTS)/bench-venv/bin/python bench/run.py "$(CARGO_TARGET_DIR)/release" "$(SCALE)" --peers "$(PEERS)" $(BENCH)
	$(PARTS)/bench-venv/bin/python bench/policy.py "$(CARGO_TARGET_DIR)/release" "$(SCALE)"

## TPC-H over Delta and over Iceberg, with peers on the same files: make tpch SF=1 PEERS=duckdb BENCH="--runs 5"
tpch:
	cargo build --locked --workspace --release
	bench/setup.sh "$(PEERS),tables"
	$(PARTS)/bench-venv/bin/python bench/tpch.py "$(CARGO_TARGET_DIR)/release" "$(SF)" --peers "$(PEERS)" --format delta $(BENCH)
	$(PARTS)/bench-venv/bin/python bench/tpch.py "$(CARGO_TARGET_DIR)/release" "$(SF)" --peers "$(PEERS)" --format iceberg $(BENCH)

## All that users do to a server, for an hour, and whether its memory stays flat: make soak MINUTES=1440 SCALE=100m
soak:
	cargo build --locked --workspace --release
	bench/setup.sh tables
	$(PARTS)/bench-venv/bin/python bench/soak.py "$(CARGO_TARGET_DIR)/release" "$(SCALE)" --minutes "$(MINUTES)"

## The release binary, in ~/.cargo/bin.
install:
	cargo install --locked --path server
