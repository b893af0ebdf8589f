.PHONY: test
test:
	cargo fmt --check
	cargo test
