"""Snapshots of volumes of HDFS by Kubernetes' snapshot controller, and volumes from them."""
import testbed

GROUP = "snapshot.storage.k8s.io"
# What was there when the snapshot was taken, and what became of it since.
FILL = ("set -e; mkdir /data/deep; echo before >/data/word; dd if=/dev/urandom of=/data/deep/blob bs=1M count=5 2>/dev/null; "
        "sha256sum </data/deep/blob")
CHANGE = "set -e; echo after >/data/word; rm -r /data/deep; echo new >/data/added"
SHOW = "set -e; cd /data; sha256sum <deep/blob; cat word; ls; stat -c %u:%g . deep word deep/blob"
SHOWN = ["before", "deep", "word"] + 4 * ["1000:1000"]


def take(cluster, name, claim):
    """A snapshot of the claim's volume, when it can be used; the name of its VolumeSnapshotContent."""
    cluster.apply({"apiVersion": f"{GROUP}/v1", "kind": "VolumeSnapshot", "metadata": {"name": name, "namespace": "default"},
                   "spec": {"volumeSnapshotClassName": "lake", "source": {"persistentVolumeClaimName": claim}}})
    status = lambda: cluster.get("volumesnapshot", name).get("status", {})
    testbed.until(f"snapshot {name} ready to use", 60, lambda: status().get("readyToUse"))
    assert status()["restoreSize"] == cluster.get("pvc", claim)["status"]["capacity"]["storage"], status()
    return status()["boundVolumeSnapshotContentName"]


def restore(cluster, name, snapshot, mode):
    """A claim that is filled from the snapshot, when it is."""
    cluster.claim(name, modes=[mode], dataSource={"apiGroup": GROUP, "kind": "VolumeSnapshot", "name": snapshot})
    testbed.until(f"claim {name} bound", 60, lambda: cluster.get("pvc", name)["status"]["phase"] == "Bound")


def a_snapshot_is_restored_read_only_and_as_a_copy(cluster):
    cluster.claim("corpus")
    cluster.pod("filler", FILL, "corpus", "node1")
    blob = cluster.succeeds("filler").split()
    take(cluster, "corpus", "corpus")
    cluster.pod("changer", CHANGE, "corpus", "node1")
    cluster.succeeds("changer")
    restore(cluster, "view", "corpus", "ReadOnlyMany")
    restore(cluster, "copy", "corpus", "ReadWriteMany")
    for name in ("view", "copy"):
        cluster.pod(f"{name}-looker", SHOW, name, "node2")
        seen = cluster.succeeds(f"{name}-looker").split()
        assert seen == blob + SHOWN, f"{name}: {seen}"
    cluster.pod("intruder", "touch /data/x || rm /data/word || echo y >/data/word || echo refused", "view", "node1")
    assert "refused" in cluster.succeeds("intruder").split()
    cluster.pod("writer", "set -e; echo mine >/data/word; echo more >>/data/deep/blob; mv /data/deep /data/moved; ls /data",
                "copy", "node1")
    assert cluster.succeeds("writer").split() == ["moved", "word"]
    # What one has is not the other's.
    for name, words in (("corpus", ["after", "added", "word"]), ("view", ["before", "deep", "word"]), ("copy", ["mine", "moved", "word"])):
        cluster.pod(f"{name}-last", "cat /data/word; ls /data", name, "node2")
        seen = cluster.succeeds(f"{name}-last").split()
        assert seen == words, f"{name}: {seen}"


def a_snapshot_stays_while_a_volume_shows_it_and_its_source_while_it_stays(cluster):
    cluster.claim("source")
    cluster.pod("filler", "echo before >/data/word", "source")
    cluster.succeeds("filler")
    content = take(cluster, "source", "source")
    restore(cluster, "shown", "source", "ReadOnlyMany")
    cluster.pod("reader", "sleep 600", "shown", "node1")
    cluster.ready("reader")
    volume = cluster.get("pvc", "source")["spec"]["volumeName"]
    cluster.k("delete", "pod", "filler", "--timeout=60s")
    cluster.k("delete", "pvc", "source", "--timeout=60s")
    told = cluster.event(volume, "delete them first", kind="PersistentVolume")
    assert "one of them the snapshot @" in told, told
    cluster.k("delete", "volumesnapshot", "source", "--wait=false")
    cluster.event(content, "Failed to delete snapshot", kind="VolumeSnapshotContent")
    # Its event has no room for the reason: the sidecar's log says it.
    said = cluster.k("-n", "millrace", "logs", "-l", "app.kubernetes.io/component=controller", "-c", "snapshotter", "--tail=-1")
    assert "which was made from it and shows it" in said, said[-2000:]
    assert cluster.exec("reader", "cat", "/data/word").strip() == "before"
    left = {one["metadata"]["name"] for one in cluster.get("pv,volumesnapshotcontents")["items"]}
    assert {volume, content} <= left, left
    # One after the other they go, when nothing needs them any more.
    cluster.k("delete", "pod", "reader", "--timeout=60s")
    cluster.k("delete", "pvc", "shown", "--timeout=60s")
    testbed.until("snapshot and volumes gone", 180, lambda: not cluster.get("pv,volumesnapshots,volumesnapshotcontents")["items"])
    left = cluster.server.names("default")
    assert not left & {"source", "shown"}, left
