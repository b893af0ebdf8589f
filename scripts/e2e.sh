#!/usr/bin/env bash
# Brings up the Kubernetes of deploy/e2e, installs the driver in it, and runs the cases of BACKEND (s3, nfs or hdfs); with STORAGE=1
# Kubernetes' own storage tests, too. Needs root. Arguments are parts of cases' names.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${MILLRACE_CACHE:?the folder for built tools; make sets it}
export K8S_BIN=${K8S_BIN:-$cache/k8s} K8S_RUN=${K8S_RUN:-${TMPDIR:-/tmp}/millrace-e2e}
# Nothing of Python's is left in the tree.
export PYTHONDONTWRITEBYTECODE=1
storage=()
[ "${STORAGE:-}" != 1 ] || storage=(--storage)
scripts/tools.sh
deploy/e2e/cluster/build ${storage:+e2e}
export MILLRACE_IMAGE=$K8S_BIN/images/millrace.tar MILLRACE
deploy/image/pack millrace.test/millrace:1 "$MILLRACE_IMAGE"
# The test's own S3 server, which the image is built without.
cargo build --release
MILLRACE=$(realpath "${CARGO_TARGET_DIR:-target}/release/millrace")
exec deploy/e2e/run --backend "${BACKEND:-s3}" "${storage[@]}" "$@"
