"""What dies, and what running pods see of it."""
import time

import testbed


def a_kubelet_restarts_under_a_running_pod(cluster):
    cluster.claim("steady")
    cluster.pod("steady", "echo hi >/data/word; sleep 600", "steady", "node1")
    cluster.ready("steady")
    mounts = len(cluster.mounts("node1"))
    script = f'. "{testbed.SCRIPTS}/env.sh"; stop node1 kubelet KILL'
    testbed.sh("bash", "-c", script)
    testbed.sh(testbed.SCRIPTS / "kubelet", "node1")
    testbed.until("an exec after the restart", 90, lambda: "hi" in cluster.k("exec", "steady", "--", "cat", "/data/word", check=False))
    # The kubelet publishes every volume again: no second mount may come of it.
    time.sleep(5)
    assert len(cluster.mounts("node1")) == mounts, cluster.mounts("node1")
    cluster.k("delete", "pod", "steady", "--timeout=60s")


def the_node_plugin_is_deleted_under_load(cluster):
    cluster.claim("loaded")
    cluster.pod("loaded", "while :; do echo x >/data/word && cat /data/word >/dev/null || sleep 0.2; done", "loaded", "node1")
    cluster.ready("loaded")
    pod = next(pod for pod in cluster.get("pods", "-n", "millrace", "-l", "app.kubernetes.io/component=node")["items"]
               if pod["spec"]["nodeName"] == "node1")
    cluster.k("-n", "millrace", "delete", "pod", pod["metadata"]["name"], "--timeout=90s")
    cluster.settled()
    # Its workers ended with it: a running pod sees an error, never a hang, and can be replaced.
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
