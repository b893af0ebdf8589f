#!/usr/bin/env bash
# Runs the zoo, programs that nobody here wrote, on a mount of the embedded S3 server, and compares with local disk. Its
# data set is put there through the S3 API, and read where it lies; the writers get a folder beside it. Arguments go to
# the zoo. Needs root; installs Debian packages and a Python environment of about 1 GB in $ZOO_HOME.
set -euo pipefail
cd "$(dirname "$0")/.."
export ZOO_HOME=${ZOO_HOME:-${MILLRACE_CACHE:?make sets it}/zoo}
zoo/setup.sh
cargo build --release
exec "${CARGO_TARGET_DIR:-target}/release/millrace" try --data "$ZOO_HOME/data/set" -- \
    sh -c 'zoo=$1; shift; mkdir zoo-work && exec "$zoo" "$PWD/zoo-work" --readonly "$PWD" "$@"' zoo "$PWD/zoo/zoo" "$@"
