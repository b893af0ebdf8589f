#!/usr/bin/env bash
# Runs the zoo, programs that nobody here wrote, on a mount of the embedded S3 server, or of BACKEND=nfs or hdfs (`make tools`
# provides them), and compares with local disk. Its data set is put there through the S3 API; `try` runs this script again inside the mount. The readers see the data set
# through a read-only mount of its folder, so that what others write beside it is not taken for a part of it. Its programs
# are run, too: hence the mode. Arguments go to the zoo. Needs root; installs Debian packages and a Python environment of
# about 1 GB in $ZOO_HOME.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

if [ "${MILLRACE_ZOO:-}" != inside ]; then
    cd "$here"
    export ZOO_HOME=${ZOO_HOME:-${MILLRACE_CACHE:?make sets it}/zoo} MILLRACE_ZOO=inside
    zoo/setup.sh
    cargo build --release
    store=(--store "${BACKEND:-s3}")
    # What S3 itself keeps no mode for can be run.
    [ "${store[1]}" != s3 ] || store+=(--parameter fileMode=0755)
    exec "${CARGO_TARGET_DIR:-target}/release/millrace" try "${store[@]}" --data "$ZOO_HOME/data" -- "$here/scripts/zoo.sh" "$@"
fi
volume=$PWD
readers=$(mktemp -d)
finish() {
    status=$?
    umount "$readers" && rmdir "$readers"
    [ -z "${home:-}" ] || rm -rf "$home"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM
mount --bind "$volume/set" "$readers"
mount -o remount,bind,ro "$readers"
cd /
# A file server knows the mount's identity alone: programs are run as whom it shows as the volume's owner.
as=()
read -r uid gid < <(stat -c '%u %g' "$volume")
if [ "$uid" != 0 ]; then
    home=$(mktemp -d)
    find "$ZOO_HOME" -mindepth 1 -maxdepth 1 ! -name logs ! -name tmp -exec ln -s -t "$home" {} +
    chown "$uid:$gid" "$home"
    # They are found wherever the cache is, below root's own home too.
    reach=+dac_read_search
    as=(setpriv --reuid "$uid" --regid "$gid" --clear-groups --inh-caps "$reach" --ambient-caps "$reach" env ZOO_HOME="$home")
fi
"${as[@]}" "$here/zoo/zoo" "$volume" --readonly "$readers" "$@"
