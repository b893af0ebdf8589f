#!/bin/sh
# Runs csi-sanity as root against a controller and a node plugin of their own processes, with real mounts.
#
# Usage: scripts/sanity.sh STORES STORE SECRETS [BACKEND]
#   STORES   the stores file; STORE, one of its stores, needs a controller credential or user
#   SECRETS  YAML: `NodePublishVolumeSecret:` and below it what the suite mounts with
#   BACKEND  of the store: s3, hdfs or nfs; s3 where it is not given
# Environment: MILLRACE (the binary), MILLRACE_CSI_SANITY (the suite's binary; built with go where it is not set).
set -eu

if [ $# -ne 3 ] && [ $# -ne 4 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
stores=$1 store=$2 secrets=$3 backend=${4:-s3}
millrace=${MILLRACE:-target/release/millrace}
here=$(cd "$(dirname "$0")/.." && pwd)

work=$(mktemp -d)
# Workers have uids of their own and pass through.
chmod 711 "$work"
plugins=
finish() {
    status=$?
    for pid in $plugins; do kill "$pid" 2>/dev/null || true; done
    for pid in $plugins; do wait "$pid" 2>/dev/null || true; done
    if [ $status -ne 0 ]; then tail -n 40 "$work"/*.log >&2 || true; fi
    # --one-file-system: what is still mounted here is someone's data.
    rm -rf --one-file-system "$work"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

suite=${MILLRACE_CSI_SANITY:-}
if [ -z "$suite" ]; then
    suite=$work/csi-sanity
    (cd "$here/csi-sanity" && go build -o "$suite" .)
fi

start() {
    role=$1
    shift
    "$millrace" "$role" --endpoint "unix://$work/$role.sock" --stores "$stores" "$@" 2>"$work/$role.log" &
    plugins="$plugins $!"
    tries=0
    while [ ! -S "$work/$role.sock" ]; do
        kill -0 $! 2>/dev/null || { echo "the $role plugin ended at once" >&2; exit 1; }
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "the $role plugin opened no socket within 20 s" >&2; exit 1; }
        sleep 0.1
    done
}
start controller --cluster-id sanity
start node --node-id sanity --state-dir "$work/state"

printf 'store: %s\n' "$store" >"$work/parameters.yaml"
printf 'ttl: 5s\nmemory: 64Mi\n' >"$work/mutable.yaml"
"$suite" -controller "unix://$work/controller.sock" -node "unix://$work/node.sock" -backend "$backend" \
    -secrets "$secrets" -parameters "$work/parameters.yaml" -mutable "$work/mutable.yaml" -ginkgo.no-color
