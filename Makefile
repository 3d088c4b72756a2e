# Two commands do everything on a fresh Debian machine: `make demo` and `make test`. `make check` is what to run while
# working. The other targets are parts of these.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env PATH="$$PATH")
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/heddle/tools
# A control plane for the suite `api_server` and `make demo-cluster`, kept outside of git because it takes minutes to build.
KUBERNETES_VERSION := $(shell sed -nE 's|^(require)?[[:space:]]*k8s.io/kubernetes (v[0-9.]+).*|\2|p' tests/kubernetes/go.mod)
export HEDDLE_KUBERNETES := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/heddle/kubernetes/$(KUBERNETES_VERSION)/bin
# Helm, for the test of the chart.
HELM_VERSION := $(shell sed -nE 's|^require helm.sh/helm/v3 (v[0-9.]+).*|\1|p' tests/helm/go.mod)
export HEDDLE_HELM := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/heddle/helm/$(HELM_VERSION)
# The programs and images of `make e2e-cluster`.
export HEDDLE_CLUSTER := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/heddle/cluster/$(KUBERNETES_VERSION)
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/e2e
DENY_VERSION := 0.20.2
GUNGRAUN_VERSION := 0.20.0
FUZZ_SECONDS ?= 60
LOOM := -p heddle-port -p heddle-tables -p heddle-flow -p heddle-engine

# `make check` runs all tests of every crate but these, which have tests that need root, and of these the unit tests without
# the ones named here.
NEED_ROOT := linux io host agent cni lab bench
UNIT_TESTS_WITH_ROOT := probe::tests::it_works_here probe::tests::its_time flow_file::tests::without_reserved \
	flow_file::tests::mounted_once netns::tests::a_namespace_goes
ROOTLESS := --workspace --exclude heddle-tests $(NEED_ROOT:%=--exclude heddle-%)

# command:package, for a build and for running; then packages without a command of their own
BUILD_COMMANDS := cc:gcc clang:clang llvm-strip:llvm m4:m4 pkg-config:pkg-config bpftool:bpftool python3:python3 strip:binutils
COMMANDS := $(BUILD_COMMANDS) ip:iproute2 ping:iputils-ping ethtool:ethtool iperf3:iperf3 nft:nftables
HEADERS := /usr/include/libelf.h:libelf-dev /usr/include/zlib.h:zlib1g-dev

# Runs the cluster of tests/cluster, with heddle's image made of the binaries that the other suites use.
CLUSTER_COMMAND = scripts/image.sh $(BIN)/heddle $(BIN)/heddle-cni $(HEDDLE_CLUSTER)/images/heddle.tar && \
	cargo build --locked --profile e2e -p heddle-cluster && $(SUDO) $(BIN)/heddle-e2e-cluster

# The fuzz targets are a workspace of their own. They compile on a stable toolchain; libFuzzer, which is C++, is named here
# and not built, because nothing is linked.
CLIPPY_FUZZ := CUSTOM_LIBFUZZER_PATH=/nowhere/libfuzzer.a cargo clippy --locked --manifest-path fuzz/Cargo.toml \
	--target-dir $(TARGET) -- -D warnings

help: ## what there is
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# Only the instruction budget needs it.
test instructions: COMMANDS += valgrind:valgrind

# Only what runs an API server needs them.
test e2e demo-cluster kubernetes helm manifests: COMMANDS += go:golang-go etcd:etcd-server

# Only a cluster with kubelets needs them.
test e2e-quick e2e-cluster: COMMANDS += go:golang-go etcd:etcd-server runc:runc mmdebstrap:mmdebstrap nsenter:util-linux curl:curl

# Only the suite `nodes` dissects captures.
test e2e: COMMANDS += tshark:tshark dumpcap:wireshark-common

demo: deps build ## heddle's main job on real traffic, in namespaces of its own
	@$(SUDO) $(BIN)/heddle demo $(DEMO_FLAGS)

demo-cluster: deps build kubernetes ## the agent on a real API server: kubectl applies pods, a Service, a policy
	@cargo build --locked --profile e2e -p heddle-lab --features control-plane --bin heddle-demo-cluster
	@$(SUDO) $(BIN)/heddle-demo-cluster

check: COMMANDS := $(BUILD_COMMANDS)
check: deps ## formatting, lints, and every test that needs no root and no network namespace: a few minutes
	@cargo fmt --all --check
	@scripts/style.sh
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(CLIPPY_FUZZ)
	@cargo test --locked --profile e2e $(ROOTLESS)
	@cargo test --locked --profile e2e $(NEED_ROOT:%=-p heddle-%) --lib --bins -- $(UNIT_TESTS_WITH_ROOT:%=--skip %)
	@cargo test --locked --profile e2e -p heddle-tests --test house

style: ## counts what CONTRIBUTING.md forbids in prose and layout
	@scripts/style.sh

test: deps lint unit loom e2e e2e-quick instructions ## the whole suite
	@echo "make test: all of it passed"

build: deps ## both binaries, as the demo and the end-to-end suites use them
	@cargo build --locked --profile e2e -p heddle-cli -p heddle-cni

deps: ## installs what is missing, and says so
	@command -v cargo > /dev/null || { echo "heddle needs a Rust toolchain (1.90 or later): https://rustup.rs"; exit 1; }
	@missing=; \
	for pair in $(COMMANDS); do PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" > /dev/null || missing="$$missing $${pair#*:}"; done; \
	for pair in $(HEADERS); do [ -e "$${pair%%:*}" ] || missing="$$missing $${pair#*:}"; done; \
	[ -z "$$missing" ] && exit 0; \
	command -v apt-get > /dev/null || { echo "missing, and no apt-get to install it with:$$missing"; exit 1; }; \
	echo "installing with apt-get:$$missing"; \
	$(SUDO) apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing > /dev/null

lint: deps $(TOOLS)/bin/cargo-deny ## rustfmt, clippy, rustdoc's warnings, cargo deny, prose and layout
	@cargo fmt --all --check
	@scripts/style.sh
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(CLIPPY_FUZZ)
	@RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --workspace
	@$(TOOLS)/bin/cargo-deny --log-level error check bans licenses sources

$(TOOLS)/bin/cargo-deny:
	@echo "installing cargo-deny $(DENY_VERSION) into $(TOOLS)"
	@cargo install --quiet --locked --root $(TOOLS) cargo-deny@$(DENY_VERSION)

unit: deps ## unit, property and in-memory tests, AF_XDP on real veths, the CNI plugin in real namespaces
	@$(SUDO) cargo test --locked --profile e2e --workspace --exclude heddle-tests

loom: deps ## the lock-free code under every interleaving
	@RUSTFLAGS="--cfg loom" cargo test --locked --release --target-dir $(TARGET)/loom --lib $(LOOM) loom

kubernetes: deps ## builds kube-apiserver, kube-controller-manager and kubectl, once
	@scripts/kubernetes.sh $(HEDDLE_KUBERNETES)

helm: deps ## builds Helm, once
	@scripts/helm.sh $(HEDDLE_HELM)

manifests: helm ## renders the Helm chart into configs/kubernetes.yaml
	@scripts/manifests.sh $(HEDDLE_HELM)/helm

image: deps ## the agent's container image as an OCI archive, from Debian's packages and a release build
	@cargo build --locked --release -p heddle-cli -p heddle-cni
	@scripts/image.sh $(TARGET)/release/heddle $(TARGET)/release/heddle-cni $(TARGET)/heddle-image.tar

e2e: build kubernetes helm ## real namespaces, veths, sockets: the agent and the CNI plugin as binaries
	@$(SUDO) cargo test --locked --profile e2e -p heddle-tests -- --test-threads=2

e2e-quick: build kubernetes helm ## a real cluster of two nodes with kubelet and containerd, heddle installed by its chart: the quick part
	@scripts/cluster.sh $(HEDDLE_CLUSTER) $(HEDDLE_KUBERNETES)
	@$(CLUSTER_COMMAND) --quick --nodes 2

e2e-cluster: build kubernetes helm ## the same with three nodes: all scenarios, and Kubernetes' own e2e suite: an hour (CLUSTER_FLAGS=--list)
	@scripts/cluster.sh $(HEDDLE_CLUSTER) $(HEDDLE_KUBERNETES) suite
	@$(CLUSTER_COMMAND) $(CLUSTER_FLAGS)

bench: deps ## the pipeline in memory; on veths beside a bare forwarder and the kernel, interleaved (bench/README.md)
	@cargo bench --locked -p heddle-bench --bench pipeline
	@$(SUDO) cargo run --locked --release -p heddle-bench --bin heddle-compare -- $(BENCH_FLAGS)

bench-nodes: deps ## pods of two nodes over VXLAN, beside the kernel's VXLAN device (bench/README.md)
	@cargo build --locked --release -p heddle-bench -p heddle-cli -p heddle-cni
	@$(SUDO) $(TARGET)/release/heddle-compare --only nodes $(BENCH_FLAGS)

bench-streams: deps ## TCP of one node's pods, with each other and with the outside, beside the kernel (bench/README.md)
	@cargo build --locked --release -p heddle-bench -p heddle-cli -p heddle-cni
	@$(SUDO) $(TARGET)/release/heddle-compare --only streams $(BENCH_FLAGS)

bench-cluster: deps ## the control plane with 5,000 nodes and 150,000 pods (bench/README.md): a few minutes
	@cargo build --locked --release -p heddle-bench -p heddle-cli -p heddle-cni
	@$(TARGET)/release/heddle-cluster-scale stages $(BENCH_FLAGS)
	@$(SUDO) $(TARGET)/release/heddle-cluster-scale agent $(BENCH_FLAGS)

instructions: deps $(TOOLS)/bin/gungraun-runner ## instructions a packet against the budget (needs valgrind)
	@PATH="$(TOOLS)/bin:$$PATH" cargo bench --locked -p heddle-bench --no-default-features --bench instructions

$(TOOLS)/bin/gungraun-runner:
	@echo "installing gungraun-runner $(GUNGRAUN_VERSION) into $(TOOLS)"
	@cargo install --quiet --locked --root $(TOOLS) gungraun-runner@$(GUNGRAUN_VERSION)

# libFuzzer writes what it finds into the first folder, so that the corpus keeps only what a person put there.
fuzz: ## one minute of each fuzz target (needs a nightly toolchain and cargo-fuzz)
	@cargo +nightly fuzz --version > /dev/null || { echo "make fuzz needs: rustup toolchain install nightly; cargo install cargo-fuzz"; exit 1; }
	@for target in $$(cargo +nightly fuzz list); do \
		found=$(abspath $(TARGET))/fuzz-found/$$target; \
		mkdir -p "$$found"; \
		cargo +nightly fuzz run "$$target" "$$found" "fuzz/corpus/$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done

.PHONY: help demo demo-cluster kubernetes helm manifests image check style test build deps lint unit loom e2e e2e-quick e2e-cluster bench bench-nodes bench-streams bench-cluster instructions fuzz
