#!/usr/bin/env bash
# What takes too long for every `make test`: the tests of kills, freezes and many identities, with larger numbers. Ends
# with one line: N passed, N failed, N skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
export MILLRACE_REQUIRE_ALL=1
export MILLRACE_TEST_IDENTITIES=${MILLRACE_TEST_IDENTITIES:-100}
export MILLRACE_TEST_KILLING_S=${MILLRACE_TEST_KILLING_S:-60}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One after the other: a hundred workers leave nothing to the others.
cargo test --no-fail-fast --test worker --test controller -- --nocapture --test-threads=1 kill identities frozen froze \
    freezes dies died out_of_memory isolation silent 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
read -r passed failed skipped < <(awk '
    /^test result: / { for (i = 1; i < NF; i++) n[$(i + 1)] += $i }
    END { print n["passed;"] + 0, n["failed;"] + 0, n["ignored;"] + 0 }' "$log")
# What could not be run says so.
skipped=$((skipped + $(grep -c '^skipped: ' "$log")))
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
if [ $((passed + failed)) -eq 0 ]; then failed=1; fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ "$skipped" -eq 0 ]
