# Built tools and cargo's target folder are kept outside the tree, so that the next run finds them.
CACHE_HOME := $(or $(XDG_CACHE_HOME),$(if $(HOME),$(HOME)/.cache),/var/tmp)
export MILLRACE_CACHE ?= $(CACHE_HOME)/millrace
export CARGO_TARGET_DIR ?= $(MILLRACE_CACHE)/target
export PATH := $(MILLRACE_CACHE)/bin:$(MILLRACE_CACHE)/go/bin:$(PATH)
export MILLRACE_VERSITYGW ?= $(MILLRACE_CACHE)/bin/versitygw
export MILLRACE_CSI_SANITY ?= $(MILLRACE_CACHE)/bin/csi-sanity
TARGETS := test tools own sanity lint fmt audit bench faults zoo e2e pytorch

# Everything: checks, tests, csi-sanity. Nothing may be skipped.
test: tools own
	@MILLRACE_REQUIRE_ALL=1 scripts/test.sh

# What the tests need beside Rust, installed or built where it is missing.
tools:
	@scripts/tools.sh

# Cargo judges by name and time, so that of two checkouts with one target folder the second may be given the first one's
# build. What another checkout built of this package goes first; the dependencies stay.
own:
	@mkdir -p "$(CARGO_TARGET_DIR)"
	@if [ "$$(cat "$(CARGO_TARGET_DIR)/checkout" 2>/dev/null)" != "$(CURDIR)" ]; then \
		cargo clean -q -p millrace && cargo clean -q -p millrace --release && \
		echo "$(CURDIR)" >"$(CARGO_TARGET_DIR)/checkout"; \
	fi

# csi-sanity as root against the real controller and node, on the embedded S3 server, on nfs-ganesha and on Hadoop.
sanity: own
	MILLRACE_REQUIRE_ALL=1 cargo test --test sanity -- --nocapture

# Kills at random, freezes, a hundred identities: some minutes. Nothing may be skipped.
faults: tools own
	@scripts/faults.sh

# Minutes each: the mount beside a raw client, what the embedded server itself can give, and what a publish costs. With
# BACKEND=nfs or hdfs the mount alone, on nfs-ganesha or on Hadoop (`make tools` provides them): a quarter of an hour.
WORDS = $(if $(FULL),--full) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(PEERS),--peers) $(if $(ONLY),--only $(ONLY))
bench: own
ifeq ($(filter-out s3,$(BACKEND)),)
	cargo bench --bench embedded
	cargo bench --bench mount
	cargo bench --bench read -- $(WORDS)
	cargo bench --bench publish
else
	cargo bench --bench read -- --backend $(BACKEND) $(WORDS)
endif

# Real programs on a mount of S3, or of BACKEND=nfs or hdfs, compared with local disk. Half an hour.
zoo: $(if $(filter nfs hdfs,$(BACKEND)),tools) own
	BACKEND=$(BACKEND) scripts/zoo.sh

# A PyTorch DataLoader that tells a mount each epoch's shuffle. Installs PyTorch into a folder of its own.
pytorch: own
	scripts/pytorch.sh

# The driver in a real Kubernetes on this machine, as root, on S3 or on BACKEND=nfs or hdfs; STORAGE=1 adds Kubernetes' own storage
# tests (up to an hour), CASE=words picks cases. The cluster's programs are built once, which takes long.
e2e: own
	STORAGE=$(STORAGE) BACKEND=$(BACKEND) scripts/e2e.sh $(CASE)

lint: tools own
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features -- -D warnings
	cargo deny check bans licenses sources

fmt:
	cargo fmt

# Known weaknesses of the dependencies; needs the network.
audit: tools
	cargo deny check advisories

.PHONY: $(TARGETS)
