#!/usr/bin/env bash
# Serves HOME/root and HOME/squash by nfs-ganesha over NFSv3 on one address, and prints READY when it does. As root, in a
# mount namespace and a pid namespace of its own: its /run is private, and all of it ends with this script.
# usage: unshare --mount --pid --fork --kill-child --mount-proc start.sh HOME NFS_PORT MOUNT_PORT [ADDRESS]
#   HOME/exports.conf, where it exists, is read after the two exports.
set -euo pipefail
home=$1 nfs=$2 mount=$3 address=${4:-127.0.0.1}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$home/root" "$home/squash" "$home/recovery"
touch "$home/exports.conf"
export_of() { # ID DIRECTORY SQUASH
    echo "EXPORT { Export_Id = $1; Path = \"$home/$2\"; Pseudo = /$2; Squash = $3;"
    echo "  Anonymous_Uid = 65534; Anonymous_Gid = 65534; FSAL { Name = VFS; } }"
}
cat >"$home/ganesha.conf" <<CONF
NFS_CORE_PARAM {
  Protocols = 3;
  NFS_Port = $nfs; MNT_Port = $mount;
  Bind_addr = $address;
  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
  mount_path_pseudo = false;
}
NFSv4 { Graceless = true; RecoveryBackend = fs; RecoveryRoot = "$home/recovery"; }
NFS_KRB5 { Active_krb5 = false; }
EXPORT_DEFAULTS { Access_Type = RW; SecType = sys; Protocols = 3; Transports = TCP; PrivilegedPort = false; }
$(export_of 1 root no_root_squash)
$(export_of 2 squash root_squash)
%include "$home/exports.conf"
LOG { Default_Log_Level = EVENT; }
CONF
# A copy of a mount keeps its worker alive after the mount is gone.
awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts | xargs -r umount -l
mount -t tmpfs tmpfs /run
mkdir -p /run/ganesha
PATH=/usr/bin:/bin:$PATH python3 "$here/rpcbind.py" /run/rpcbind.sock &
until [ -S /run/rpcbind.sock ]; do sleep 0.02; done
rm -f "$home/log"
ganesha.nfsd -F -L "$home/log" -f "$home/ganesha.conf" -p "$home/pid" >"$home/out" 2>&1 &
ganesha=$!
until grep -q 'NFS SERVER INITIALIZED' "$home/log" 2>/dev/null; do
    kill -0 "$ganesha" 2>/dev/null || { tail -n 20 "$home/log" "$home/out" >&2; exit 1; }
    sleep 0.05
done
echo READY
wait "$ganesha"
