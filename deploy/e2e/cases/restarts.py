"""What dies or is replaced, and what running pods see of it."""
import itertools
import time

import testbed


def a_kubelet_restarts_under_a_running_pod(cluster):
    """The pod sees nothing of it."""
    cluster.claim("steady")
    cluster.pod("steady", "echo hi >/data/word; while :; do cat /data/word >>/tmp/log 2>&1; sleep 0.2; done", "steady", "node1")
    cluster.ready("steady")
    mounts = len(cluster.mounts("node1"))
    script = f'. "{testbed.SCRIPTS}/env.sh"; stop node1 kubelet KILL'
    testbed.sh("bash", "-c", script)
    testbed.sh(testbed.SCRIPTS / "kubelet", "node1")
    testbed.until("an exec after the restart", 90, lambda: "hi" in cluster.k("exec", "steady", "--", "cat", "/data/word", check=False))
    # The kubelet publishes every volume again: no second mount may come of it.
    time.sleep(5)
    assert len(cluster.mounts("node1")) == mounts, cluster.mounts("node1")
    assert set(cluster.exec("steady", "cat", "/tmp/log").split()) == {"hi"}
    cluster.k("delete", "pod", "steady", "--timeout=60s")


def the_node_plugin_is_deleted_under_load(cluster):
    """Its workers end with it: running pods get ENOTCONN, never a hang, and a pod that is started again has its volume."""
    cluster.claim("loaded")
    load = "while :; do (echo x >/data/word && cat /data/word) >/dev/null 2>>/tmp/errors || sleep 0.2; date +%s >/tmp/alive; done"
    cluster.pod("loaded", load, "loaded", "node1")
    cluster.ready("loaded")
    cluster.k("-n", "millrace", "delete", "pod", cluster.plugin("node", "node1")["metadata"]["name"], "--timeout=90s")
    cluster.settled()
    now, alive = cluster.exec("loaded", "sh", "-c", "date +%s; cat /tmp/alive").split()
    assert int(now) - int(alive) <= 5, f"the pod has hung for {int(now) - int(alive)} s"
    errors = cluster.exec("loaded", "cat", "/tmp/errors")
    assert "Transport endpoint is not connected" in errors or "Socket not connected" in errors, errors[-500:]
    cluster.k("delete", "pod", "loaded", "--timeout=90s")
    cluster.pod("again", "echo y >/data/word && cat /data/word", "loaded", "node1")
    assert cluster.succeeds("again", 90).strip() == "y"


def a_controller_dies_while_it_provisions(cluster):
    names = [f"many{number}" for number in range(10)]
    for name in names:
        cluster.claim(name)
        cluster.pod(name, "echo ok >/data/word", name)
    cluster.k("-n", "millrace", "delete", "pod", "-l", "app.kubernetes.io/component=controller", "--grace-period=0", "--force")
    for name in names:
        cluster.succeeds(name, 180)
    cluster.settled()
    made = [record["name"] for record in cluster.records() if record["claim"]["name"] in names]
    claimed = [cluster.get("pvc", name)["spec"]["volumeName"] for name in names]
    assert sorted(made) == sorted(claimed), f"volumes {made} for claims of {claimed}"


def a_node_plugin_is_upgraded_when_its_node_was_drained(cluster):
    """`OnDelete`: a changed DaemonSet leaves running pods alone until the administrator deletes the node's plugin."""
    cluster.claim("serving")
    cluster.pod("serving", "echo v1 >/data/word; sleep 600", "serving", "node1")
    cluster.ready("serving")
    before = cluster.plugin("node", "node1")
    change = lambda note: {"spec": {"template": {"metadata": {"annotations": {"millrace.test/release": note}}}}}
    cluster.patch("daemonset", "node", change("next"), "-n", "millrace")
    try:
        time.sleep(5)
        assert cluster.plugin("node", "node1")["metadata"]["uid"] == before["metadata"]["uid"], "it was replaced by itself"
        assert cluster.exec("serving", "cat", "/data/word").strip() == "v1"
        # --force, since nothing would start the pod of this test again.
        cluster.k("drain", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s", "node1")
        cluster.k("-n", "millrace", "delete", "pod", before["metadata"]["name"], "--timeout=90s")
        cluster.settled()
        cluster.k("uncordon", "node1")
        after = cluster.plugin("node", "node1")
        assert after["metadata"]["annotations"]["millrace.test/release"] == "next", after["metadata"]
        cluster.pod("after", "cat /data/word", "serving", "node1")
        assert cluster.succeeds("after").strip() == "v1"
    finally:
        cluster.k("uncordon", "node1", check=False)
        cluster.patch("daemonset", "node", change(None), "-n", "millrace")
        for node in ("node1", "node2"):
            pod = cluster.plugin("node", node)
            if "millrace.test/release" in pod["metadata"].get("annotations", {}):
                cluster.k("-n", "millrace", "delete", "pod", pod["metadata"]["name"], "--timeout=90s")
        cluster.settled()


def a_store_is_added_without_a_restart(cluster):
    stores = cluster.get("configmap", "stores", "-n", "millrace")["data"]["stores.yaml"]
    added = stores + ("  - {name: late, backend: s3, endpoint: 'http://10.200.0.1:9000', bucket: late, "
                      "controllerCredential: /etc/millrace/credentials/lake}\n")
    restarts = lambda: [(pod["metadata"]["uid"], one["restartCount"]) for pod in cluster.get("pods", "-n", "millrace")["items"]
                        for one in pod["status"]["containerStatuses"]]
    before = restarts()
    cluster.storage_class("late", store="late", binding="Immediate")
    cluster.claim("early", storage_class="late")
    cluster.event("early", 'the StorageClass names an unknown store "late"', kind="PersistentVolumeClaim")
    try:
        cluster.patch("configmap", "stores", {"data": {"stores.yaml": added}}, "-n", "millrace")
        # The kubelet renews a pod's files about every minute. The provisioner tries a claim that was refused again after
        # some minutes only, so that others are made meanwhile.
        numbers = itertools.count()

        def is_known():
            name = f"late{next(numbers)}"
            cluster.claim(name, storage_class="late")
            time.sleep(5)
            return cluster.get("pvc", name)["status"]["phase"] == "Bound" and name

        name = testbed.until("the controller knows the store", 180, is_known)
        cluster.pod("late", "echo here >/data/word && cat /data/word", name)
        assert cluster.succeeds("late", 180).strip() == "here"
        assert restarts() == before
        cluster.k("delete", "pod", "late", "--timeout=60s")
        cluster.k("delete", "pvc", "--all", "--timeout=60s")
        testbed.until("its volume gone", 60, lambda: not cluster.get("pv")["items"])
    finally:
        cluster.patch("configmap", "stores", {"data": {"stores.yaml": stores}}, "-n", "millrace")
