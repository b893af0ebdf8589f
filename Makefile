# Built tools and cargo's target folder are kept outside the tree, so that the next run finds them.
CACHE_HOME := $(or $(XDG_CACHE_HOME),$(if $(HOME),$(HOME)/.cache),/var/tmp)
export MILLRACE_CACHE ?= $(CACHE_HOME)/millrace
export CARGO_TARGET_DIR ?= $(MILLRACE_CACHE)/target
export PATH := $(MILLRACE_CACHE)/bin:$(MILLRACE_CACHE)/go/bin:$(PATH)
export MILLRACE_VERSITYGW ?= $(MILLRACE_CACHE)/bin/versitygw
export MILLRACE_CSI_SANITY ?= $(MILLRACE_CACHE)/bin/csi-sanity
TARGETS := test tools sanity lint fmt audit bench zoo

# Everything: checks, tests, csi-sanity. Nothing may be skipped.
test: tools
	@MILLRACE_REQUIRE_ALL=1 scripts/test.sh

# What the tests need beside Rust, installed or built where it is missing.
tools:
	@scripts/tools.sh

# csi-sanity as root against the real controller and node, on the embedded S3 server.
sanity:
	MILLRACE_REQUIRE_ALL=1 cargo test --test sanity -- --nocapture

# Minutes each: the mount beside a raw client, and what the embedded server itself can give.
bench:
	cargo bench --bench embedded
	cargo bench --bench mount

# Real programs on a mount, compared with local disk. Half an hour.
zoo:
	scripts/zoo.sh

lint: tools
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
