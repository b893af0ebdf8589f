"""Volumes as pods use them."""
import json
import time

import testbed

FS_GROUP = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 3000, "runAsNonRoot": True}


def one_pod_writes_and_another_nodes_pod_reads(cluster):
    cluster.claim("shared")
    cluster.pod("writer", "dd if=/dev/urandom of=/data/blob bs=1M count=20 2>/dev/null && sha256sum </data/blob", "shared", "node1")
    written = cluster.succeeds("writer")
    cluster.pod("reader", "sha256sum </data/blob && ls /data", "shared", "node2")
    read = cluster.succeeds("reader")
    assert read.splitlines()[0] == written.splitlines()[0], (written, read)
    assert read.splitlines()[1:] == ["blob"], read


def a_pod_that_is_not_root_writes_by_its_fs_group(cluster):
    cluster.claim("grouped")
    command = "set -e; mkdir /data/made; echo hi >/data/made/file; stat -c %g /data/made /data/made/file; id -G"
    cluster.pod("grouped", command, "grouped", security=FS_GROUP)
    lines = cluster.succeeds("grouped").split("\n")
    assert lines[:2] == ["3000", "3000"], lines


def a_sub_path_and_two_containers_see_one_volume(cluster):
    cluster.claim("parts")
    cluster.pod("maker", "mkdir -p /data/a /data/b && echo deep >/data/a/word", "parts")
    cluster.succeeds("maker")
    def container(name, command, sub_path):
        return {"name": name, "image": "millrace.test/busybox:1", "command": ["sh", "-c", command],
                "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": sub_path}]}
    cluster.pod("parts", "", "parts", containers=[
        container("main", "cat /data/word && until [ -e /data/answer ]; do sleep 0.2; done; cat /data/answer", "a"),
        container("other", "sleep 1; echo heard >/data/answer; sleep 3", "a")])
    testbed.until("both containers done", 60, lambda: cluster.phase("parts") in ("Succeeded", "Failed"))
    log = cluster.k("logs", "parts", "-c", "main")
    assert log.split() == ["deep", "heard"], log


def a_read_only_claim_refuses_writes(cluster):
    cluster.claim("fixed")
    cluster.pod("filler", "echo before >/data/word", "fixed")
    cluster.succeeds("filler")
    cluster.pod("fixed", "cat /data/word; echo x >/data/other || echo refused", volume={
        "persistentVolumeClaim": {"claimName": "fixed", "readOnly": True}})
    log = cluster.succeeds("fixed")
    assert "before" in log and "refused" in log, log


def a_read_write_once_pod_claim_has_one_pod(cluster):
    cluster.claim("single", modes=["ReadWriteOncePod"])
    cluster.pod("first", "sleep 600", "single")
    cluster.ready("first")
    cluster.pod("second", "sleep 600", "single")
    time.sleep(3)
    assert cluster.phase("second") == "Pending"


def a_static_volume_shows_a_data_set(cluster):
    static(cluster, "images", "datasets/images")
    cluster.pod("looker", "ls -l /data; cat /data/0 | wc -c", "images")
    log = cluster.succeeds("looker")
    assert log.split()[-1] == str(64 << 20), log


def a_job_reads_a_data_set_once_a_node(cluster):
    static(cluster, "images", "datasets/images")
    before = cluster.counters()["bodyBytes"]
    names = [f"rank{rank}" for rank in range(8)]
    for name in names:
        cluster.pod(name, "cat /data/0 /data/1 | sha256sum", "images", "node1")
    sums = {cluster.succeeds(name, 180) for name in names}
    assert len(sums) == 1, sums
    fetched = cluster.counters()["bodyBytes"] - before
    assert fetched <= 1.2 * (128 << 20), f"{fetched} bytes left the store for {128 << 20} of data"


def the_kernel_reads_ahead_as_far_as_the_volume_says(cluster):
    static(cluster, "images", "datasets/images")
    cluster.pod("ahead", "sleep 600", "images", "node1")
    cluster.ready("ahead")
    device = cluster.mounts("node1")[0].split()[2]
    kib = cluster.on("node1", "cat", f"/sys/class/bdi/{device}/read_ahead_kb").strip()
    assert kib == "4096", kib


def a_claim_grows_under_its_pod(cluster):
    cluster.claim("growing", size="10Mi")
    cluster.pod("growing", "sleep 600", "growing")
    cluster.ready("growing")
    full = "dd if=/dev/zero of=/data/x bs=1M count=15 2>&1 || true"
    log = cluster.exec("growing", "sh", "-c", full)
    assert "No space left" in log, log
    patch = {"spec": {"resources": {"requests": {"storage": "40Mi"}}}}
    cluster.k("patch", "pvc", "growing", "-p", json.dumps(patch))
    testbed.until("the claim's new size", 120, lambda: cluster.get("pvc", "growing")["status"]["capacity"]["storage"] == "40Mi")
    log = cluster.exec("growing", "sh", "-c", full)
    assert "No space left" not in log, log


def static(cluster, name, path, secret="alice"):
    """A PersistentVolume of what lies in the store, and its claim."""
    cluster.apply({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"name": name, "namespace": "default"},
            "csi": {"driver": "csi.millrace.dev", "volumeHandle": f"{name}-static", "readOnly": True,
                    "volumeAttributes": {"store": "lake", "path": path},
                    "nodePublishSecretRef": {"name": secret, "namespace": "default"}}}})
    cluster.claim(name, storage_class="", modes=["ReadOnlyMany"], volumeName=name)
