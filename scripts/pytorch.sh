#!/usr/bin/env bash
# Runs python/example_dataloader.py, with PyTorch, on a mount of `millrace try`, and looks at what it says of its order.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$MILLRACE_CACHE/pytorch
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import torch' 2>/dev/null ||
    "$venv/bin/pip" install -q torch
data=$(mktemp -d)
said=$(mktemp)
trap 'rm -rf "$data" "$said"' EXIT
mkdir "$data/train"
for file in $(seq -w 500); do head -c 100000 /dev/urandom >"$data/train/$file"; done
cargo run -q -- try --data "$data" -- "$venv/bin/python" -B "$PWD/python/example_dataloader.py" . train | tee "$said"
# Both epochs gave every byte, and every file of the last was announced and read.
[ "$(grep -c '50000000 bytes' "$said")" = 2 ]
grep -q "'announced': 500" "$said"
