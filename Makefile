# kumi's verbs. Each sets up what it needs and is safe to repeat: the second time only what changed is built again.
# To use another interpreter beside the usual one: make test PYTHON=python3.13 VENV=.venv-3.13

VENV = .venv
PYTHON = $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do $$p -c '$(RECENT)' && echo $$p && break; done 2>/dev/null)
RECENT = import sys; sys.exit(sys.version_info < (3, 11))

BUILT = $(VENV)/.built
SOURCES = $(wildcard Cargo.* crates/*/Cargo.toml crates/*/src/*.rs crates/*/src/*/*.rs)

# Whatever environment the user is in, maturin installs into $(VENV), and Rust's lints look at its interpreter.
export VIRTUAL_ENV = $(abspath $(VENV))
export PYO3_PYTHON = $(VIRTUAL_ENV)/bin/python
unexport CONDA_PREFIX

# $(call need,COMMAND,WHAT): stops with one line that says WHAT to install, unless COMMAND succeeds.
need = $(if $(shell { $(1); } >/dev/null 2>&1 && echo yes),,$(error kumi needs $(2)))

.PHONY: help dev lint test sim chaos bench fuzz demo docs

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: $(BUILT)  ## set up .venv with the tools and a release build of the extension

lint: $(BUILT)  ## formatting, lints, types and import directions of Rust and Python
	$(call need,cargo fmt --version,rustfmt: apt-get install rustfmt or rustup component add rustfmt)
	$(call need,cargo clippy --version,clippy: apt-get install rust-clippy or rustup component add clippy)
	$(call need,c++ --version,a C++ compiler for the fuzzers: apt-get install g++)
	cargo fmt --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --locked -- -D warnings
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m mypy.stubtest kumi._core
	$(VENV)/bin/lint-imports

# The extension (kumi-py) is tested from Python, in the one build that users get. So are the programs of benchmarks.
test: $(BUILT)  ## all tests: Rust, 500 seeds of the simulation, Python, documents, demo
	KUMI_SEEDS=500 cargo test --workspace --exclude kumi-py --all-features
	cargo build --release --quiet -p kumi-core --bin noops
	cargo build --release --quiet -p kumi-net --features plain --example crowd
	$(VENV)/bin/pytest -n auto --maxprocesses 4

sim: $(BUILT)  ## the simulation with 10,000 seeds
	KUMI_SEEDS=10000 cargo test --release -p kumi-core --all-features --test sim

chaos: $(BUILT)  ## 1,000 workers killed in the middle of large data, 100 hosts; 100,000 tasks among signals; a million tasks pushed
	KUMI_PUSHED=1000000 $(VENV)/bin/pytest -q -n 0 -o faulthandler_timeout=0 tests/test_memory.py
	KUMI_KILLS=1000 $(VENV)/bin/pytest -q -n 0 -o faulthandler_timeout=0 --timeout 0 tests/test_large.py tests/test_autoexit.py tests/test_chaos.py -k 'kill or chaos'

bench: $(VENV)/.bench  ## kumi beside its peers, into results/
	$(VENV)/bin/python -m benchmarks

fuzz:  ## coverage-guided fuzzing of the decoders
	fuzz/run

demo: $(BUILT)  ## a model search on two workers, into demo.png
	$(VENV)/bin/python examples/digits.py

docs: $(BUILT)  ## run the code in the documents and check their links
	$(VENV)/bin/pytest tests/test_readme.py

$(VENV)/bin/maturin:
	$(call need,$(PYTHON) -c '$(RECENT)',Python 3.11 or later: apt-get install python3 python3-venv)
	$(call need,$(PYTHON) -c 'import ensurepip',the venv module of Python: apt-get install $(notdir $(PYTHON))-venv)
	$(call need,cargo --version | awk -F '[ .]' '{ ok = $$2 > 1 || $$3 >= 85 } END { exit !ok }',cargo: apt-get install cargo (1.85 or later) or https://rustup.rs)
	$(call need,command -v cc,a C linker: apt-get install gcc libc6-dev)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet 'maturin>=1.9.4,<2'

$(BUILT): $(VENV)/bin/maturin pyproject.toml $(SOURCES)
	$(VENV)/bin/maturin develop --release --extras dev,demo,web
	touch $@

$(VENV)/.bench: $(BUILT)
	$(VENV)/bin/maturin develop --release --extras bench
	touch $@
