"""Volumes as pods use them."""
import time

import documented
import testbed

# What a program is told whose volume is full: by the driver, or by HDFS, which holds it to a quota (musl and glibc).
FULL = ("No space left", "Quota exceeded", "quota exceeded")
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
    cluster.static("images", "datasets/images")
    cluster.pod("looker", "ls -l /data; cat /data/0 | wc -c", "images")
    log = cluster.succeeds("looker")
    assert log.split()[-1] == str(64 << 20), log


def a_job_reads_a_data_set_once_a_node(cluster):
    cluster.static("images", "datasets/images")
    before = cluster.counters()["bodyBytes"]
    names = [f"rank{rank}" for rank in range(8)]
    for name in names:
        cluster.pod(name, "cat /data/0 /data/1 | sha256sum", "images", "node1")
    sums = {cluster.succeeds(name, 180) for name in names}
    assert len(sums) == 1, sums
    fetched = cluster.counters()["bodyBytes"] - before
    assert fetched <= 1.2 * (128 << 20), f"{fetched} bytes left the store for {128 << 20} of data"


def the_kernel_reads_ahead_as_far_as_the_volume_says(cluster):
    cluster.static("images", "datasets/images")
    cluster.pod("ahead", "sleep 600", "images", "node1")
    cluster.ready("ahead")
    device = cluster.mounts("node1")[0].split()[2]
    kib = cluster.on("node1", "cat", f"/sys/class/bdi/{device}/read_ahead_kb").strip()
    assert kib == "1024", kib


def a_claim_grows_under_its_pod(cluster):
    cluster.claim("growing", size="10Mi")
    cluster.pod("growing", "sleep 600", "growing")
    cluster.ready("growing")
    full = "dd if=/dev/zero of=/data/x bs=1M count=15 2>&1 || true"
    log = cluster.exec("growing", "sh", "-c", full)
    assert any(word in log for word in FULL), log
    patch = {"spec": {"resources": {"requests": {"storage": "40Mi"}}}}
    cluster.patch("pvc", "growing", patch)
    testbed.until("the claim's new size", 120, lambda: cluster.get("pvc", "growing")["status"]["capacity"]["storage"] == "40Mi")
    log = cluster.exec("growing", "sh", "-c", full)
    assert not any(word in log for word in FULL), log


def a_static_volume_shows_a_whole_bucket(cluster):
    cluster.static("bucket", "", modes=["ReadWriteMany"])
    cluster.pod("whole", "echo top >/data/of-the-bucket && ls -A /data && ls /data/datasets/images && rm /data/of-the-bucket", "bucket")
    names = cluster.succeeds("whole").split()
    assert {"datasets", "of-the-bucket"} <= set(names) and names[-2:] == ["0", "1"], names
    assert ".millrace" not in names, names


def another_class_of_attributes_reaches_a_running_pod(cluster):
    for name, memory in (("small", "64Mi"), ("large", "96Mi")):
        cluster.apply({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
                       "metadata": {"name": name, **testbed.OF_CASE}, "driverName": testbed.DRIVER,
                       "parameters": {"memory": memory, "ttl": "2s"}})
    cluster.claim("tuned", volumeAttributesClassName="small")
    cluster.pod("tuned", "sleep 600", "tuned", "node1")
    cluster.ready("tuned")
    volume = cluster.get("pvc", "tuned")["spec"]["volumeName"]
    budget = lambda mebibytes: (f'millrace_worker_budget_bytes{{namespace="default",persistentvolume="{volume}",store="lake"}} '
                                f"{mebibytes << 20}")
    of_node = lambda: cluster.page(cluster.plugin("node", "node1"), "/metrics").splitlines()
    testbed.until(budget(64), 30, lambda: budget(64) in of_node())
    cluster.patch("pvc", "tuned", {"spec": {"volumeAttributesClassName": "large"}})
    in_force = lambda: cluster.get("pvc", "tuned")["status"].get("currentVolumeAttributesClassName")
    testbed.until("the claim's new class", 60, lambda: in_force() == "large")
    # Workers look at their volume's own file every 30 s.
    testbed.until(budget(96), 90, lambda: budget(96) in of_node())


def what_a_class_says_of_deletion_is_done(cluster):
    """`deletion` of the class, and Kubernetes' own Retain."""
    cluster.storage_class("lake-keep", path="kept/${pvc.name}", deletion="keep")
    cluster.storage_class("lake-all", path="kept/${pvc.name}", deletion="all")
    cluster.storage_class("lake-retain", path="kept/${pvc.name}", reclaim="Retain")
    cases = {"gone": "lake", "all": "lake-all", "stays": "lake-keep", "retained": "lake-retain"}
    for name, storage_class in cases.items():
        cluster.claim(name, storage_class=storage_class)
        cluster.pod(name, "echo here >/data/word", name)
    volumes = {}
    for name in cases:
        cluster.succeeds(name)
        volumes[name] = cluster.get("pvc", name)["spec"]["volumeName"]
    cluster.k("delete", "pods", "--all", "--timeout=60s")
    cluster.k("delete", "pvc", *cases, "--timeout=60s")
    left = lambda: {volume["metadata"]["name"] for volume in cluster.get("pv")["items"]}
    testbed.until("only the retained one left", 60, lambda: left() == {volumes["retained"]})
    cluster.static("bucket", "")
    cluster.pod("looker", "cd /data; find . -name word; true", "bucket")
    found = set(cluster.succeeds("looker").split())
    assert found == {"./kept/stays/word", "./kept/retained/word"}, found
    recorded = {record["name"] for record in cluster.records()}
    assert recorded == {volumes["stays"], volumes["retained"]}, recorded
    # What is kept is the administrator's, who frees its name, or has a retained volume deleted after all.
    cluster.administer("release", volumes["stays"])
    cluster.patch("pv", volumes["retained"], {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    testbed.until("no record left", 60, lambda: not cluster.records())


def a_class_whose_user_has_no_right_to_the_prefix_is_told_on_the_pod(cluster):
    cluster.secret("mallory", key_id="mallory", access_key="mallory-of-the-test")
    cluster.storage_class("lake-mallory", path="${pvc.namespace}/${pvc.name}", secret="mallory")
    cluster.claim("locked", storage_class="lake-mallory")
    cluster.pod("locked", "true", "locked")
    code, text = documented.told("no right to the directory", "NodePublishVolume")
    cluster.event("locked", f"code = {code} desc = {text}")
    cluster.k("delete", "secret", "mallory")


def a_pod_names_a_directory_that_its_namespace_may_have(cluster):
    """Inline volumes. Those that are forbidden are among what is refused."""
    inline = {"csi": {"driver": testbed.DRIVER, "volumeAttributes": {"store": "lake", "path": "inline/default"},
                      "nodePublishSecretRef": {"name": "alice"}}}
    cluster.pod("one", "echo inline >/data/word && cat /data/word", volume=inline)
    assert cluster.succeeds("one").strip() == "inline"
    cluster.pod("two", "cat /data/word && rm /data/word", volume=inline, node="node2")
    assert cluster.succeeds("two").strip() == "inline"


def a_second_pod_reads_from_the_nodes_disk(cluster):
    cluster.static("images", "datasets/images", cache="disk", immutable="true")
    node = cluster.plugin("node", "node1")
    cluster.pod("first", "cat /data/0 | sha256sum; sleep 3", "images", "node1")
    first = cluster.succeeds("first")
    cluster.k("delete", "pod", "first", "--timeout=60s")
    before = cluster.counters()["bodyBytes"]
    cluster.pod("second", "cat /data/0 | sha256sum; sleep 8", "images", "node1")
    kept = 'millrace_cache_read_bytes_total{namespace="default",persistentvolume="images",store="lake"} '
    testbed.until("bytes read of the cache", 60, lambda: kept in cluster.page(node, "/metrics"))
    assert cluster.succeeds("second") == first
    fetched = cluster.counters()["bodyBytes"] - before
    assert fetched < 1 << 20, f"{fetched} bytes left the store for what the node had on its disk"
