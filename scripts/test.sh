#!/usr/bin/env bash
# Runs every check and every test, streams what they say, and ends with one line: N passed, N failed, N skipped.
# Fails where anything failed or was skipped. A check that is no test runner counts as one test.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0 skipped=0 summary=

# step NAME HOW COMMAND...: HOW says how to read the command's output.
step() {
    local name=$1 how=$2 log counts p f s status begun=$SECONDS
    shift 2
    log=$(mktemp)
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    counts=$("count_$how" <"$log")
    rm -f "$log"
    read -r p f s <<<"$counts"
    # A runner that breaks, or that finds nothing to run, has failed.
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ "$status" -eq 0 ] && [ $((p + f + s)) -eq 0 ]; then f=1; fi
    if [ "$how" = check ] && [ "$status" -ne 0 ]; then p=0; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf -v line '%-14s %5d passed %4d failed %4d skipped %6d s' "$name" "$p" "$f" "$s" $((SECONDS - begun))
    summary+=$line$'\n'
    printf '== %s\n' "$line"
}

count_check() { echo "1 0 0"; }

count_cargo() {
    awk '/^test result: / { for (i = 1; i < NF; i++) n[$(i + 1)] += $i }
         END { print n["passed;"] + 0, n["failed;"] + 0, n["ignored;"] + 0 }'
}

count_go() {
    awk '/^--- PASS: / { p++ } /^--- FAIL: / { f++ } /^--- SKIP: / { s++ } END { print p + 0, f + 0, s + 0 }'
}

# The specs that ran. Those that are skipped stand in the suite's own list, each with its reason, and it fails where
# that list is not exactly right.
count_specs() {
    awk '/^backend=[a-z0-9]+ Ran / { ran += $3 }
         match($0, /-- [0-9]+ Passed \| [0-9]+ Failed/) { split(substr($0, RSTART, RLENGTH), w, " "); f += w[5] }
         END { print (ran > f ? ran - f : 0), f + 0, 0 }'
}

go_tests() { (cd csi-sanity && go vet ./... && go test -count=1 -v ./...); }

step formatting check cargo fmt --check
step lints check cargo clippy --all-targets -- -D warnings
step 'lints, image' check cargo clippy --no-default-features -- -D warnings
step dependencies check cargo deny check bans licenses sources
step tests cargo cargo test --no-fail-fast -- --skip csi_sanity
step 'tests in Go' go go_tests
step csi-sanity specs make --no-print-directory sanity

printf '\n%s\n%d passed, %d failed, %d skipped\n' "$summary" "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ "$skipped" -eq 0 ]
