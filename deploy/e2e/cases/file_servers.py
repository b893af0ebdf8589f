"""Volumes on a file server, NFS or HDFS: whom they act as, and what pods see when the server is silent."""
import time

import testbed

NOT_ROOT = {"runAsUser": 4321, "runAsGroup": 4321, "fsGroup": 3000, "runAsNonRoot": True}
# Seconds that a volume waits for its server, and what a test machine may take beside that.
TIMEOUT, SLACK = 5, 20


def a_pod_that_is_not_root_acts_as_the_table_says(cluster):
    """Whoever it is in the pod, on the server it is whom the stores file lists for the namespace."""
    cluster.claim("owned")
    command = ("set -e; mkdir /data/made; echo hi >/data/made/file; cat /data/made/file; "
               "stat -c '%u:%g' /data /data/made /data/made/file; id -u")
    cluster.pod("owned", command, "owned", security=NOT_ROOT)
    lines = cluster.succeeds("owned").split()
    assert lines == ["hi"] + 3 * ["1000:1000"] + ["4321"], lines
    for below in ("", "/made", "/made/file"):
        owner = cluster.server.owner(f"default/owned{below}")
        assert owner == cluster.server.user, f"{below or 'the volume'} belongs to {owner}"


def the_server_is_silent_under_running_pods(cluster):
    """Readers get an error in time, statistics come at once, a pod can be deleted, and with the server the mount is back."""
    cluster.storage_class("impatient", binding="Immediate", secret=None, path="${pvc.namespace}/${pvc.name}", timeout=f"{TIMEOUT}s", ttl="1s")
    cluster.claim("silent", storage_class="impatient")
    cluster.pod("stays", "echo before >/data/word; sleep 600", "silent", "node1")
    cluster.pod("goes", "sleep 600", "silent", "node2")
    cluster.ready("stays", "goes")
    testbed.until("the word", 30, lambda: "before" in cluster.k("exec", "goes", "--", "cat", "/data/word", check=False))
    # So that nothing of it is believed any more.
    time.sleep(1.5)
    with cluster.server.frozen():
        begun = time.monotonic()
        said = cluster.k("exec", "stays", "--", "cat", "/data/word", check=False, errors=True)
        took = time.monotonic() - begun
        # As musl says it, or glibc.
        is_eio = "I/O error" in said or "Input/output error" in said
        assert is_eio and took < TIMEOUT + SLACK, f"after {took:.1f} s: {said}"
        begun = time.monotonic()
        cluster.exec("stays", "df", "/data")
        took = time.monotonic() - begun
        assert took < SLACK, f"df took {took:.1f} s"
        cluster.k("delete", "pod", "goes", "--timeout=60s")
        testbed.until("nothing mounted there", 30, lambda: not cluster.mounts("node2"))
    word = lambda: cluster.k("exec", "stays", "--", "cat", "/data/word", check=False)
    testbed.until("the word again", 60, lambda: "before" in word())
    testbed.until("a write", 60, lambda: "ok" in cluster.k(
        "exec", "stays", "--", "sh", "-c", "echo after >/data/word && echo ok", check=False))
    cluster.pod("later", "cat /data/word", "silent", "node2")
    assert cluster.succeeds("later").strip() == "after"


def nothing_is_left_of_volumes(cluster):
    """No mount, process, cgroup or directory; at the store's root the records alone, and what lay there before."""
    assert not cluster.get("pods")["items"] and not cluster.get("pvc")["items"] and not cluster.get("pv")["items"]
    testbed.until("nothing left on the nodes: " + "\n".join(cluster.traces()), 30, lambda: not cluster.traces())
    left = cluster.server.names("default")
    assert not left, f"{left} are left of volumes"
