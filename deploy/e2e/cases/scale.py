"""Many at once, and nothing of them afterwards."""
import contextlib
import os
import signal
import subprocess
import threading
import time

import testbed

PODS = 50
# Seconds until all are Ready.
PATIENCE = 600
CLAIMS_OF_A_POD = 2


def a_hundred_claims_and_fifty_pods(cluster):
    """How long pods take until they are Ready, all created at once, with two volumes each and with an emptyDir."""
    empty = burst(cluster, "empty", lambda number: [{"name": "data", "emptyDir": {}}])
    cluster.k("delete", "pods", "--all", "--timeout=300s")
    claims = [claim(f"claim{number}") for number in range(PODS * CLAIMS_OF_A_POD)]
    cluster.apply(*claims)
    of = lambda number: [{"name": f"data{one}", "persistentVolumeClaim": {"claimName": f"claim{number * CLAIMS_OF_A_POD + one}"}}
                         for one in range(CLAIMS_OF_A_POD)]
    full = burst(cluster, "full", of)
    for name, times in (("emptyDir", empty), ("2 volumes", full)):
        print(f"      {PODS} pods with {name}: Ready after p50 {percentile(times, 50):.1f} s, p99 {percentile(times, 99):.1f} s")
    workers = len(cluster.workers())
    assert workers == PODS * CLAIMS_OF_A_POD, f"{workers} workers"
    cluster.k("delete", "pods", "--all", "--timeout=300s")
    cluster.k("delete", "pvc", "--all", "--timeout=300s")
    testbed.until("no volume left", 180, lambda: not cluster.get("pv")["items"])
    nothing_is_left_of_volumes(cluster)


def nothing_is_left_of_volumes(cluster):
    """No mount, process, cgroup, directory or record; tombstones of records stay for a while."""
    assert not cluster.get("pods")["items"] and not cluster.get("pvc")["items"] and not cluster.get("pv")["items"]
    testbed.until("nothing left on the nodes: " + "\n".join(cluster.traces()), 30, lambda: not cluster.traces())
    records = cluster.records()
    assert not records, records


def claim(name):
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "lake", "resources": {"requests": {"storage": "1Gi"}}}}


def burst(cluster, name, volumes):
    """Creates the pods at once; how many seconds each took, from the first's creation."""
    def pod(number):
        mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes(number)]
        container = {"name": "main", "image": "millrace.test/busybox:1", "command": ["sleep", "3600"], "volumeMounts": mounts}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}{number}"},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes(number)}}

    with watched(cluster) as lines:
        begun, ready = time.monotonic(), {}
        cluster.apply(*[pod(number) for number in range(PODS)])
        for line in lines:
            pod_name, _, status = line.strip().partition("=")
            if status == "True" and pod_name.startswith(name):
                ready.setdefault(pod_name, time.monotonic() - begun)
                if len(ready) == PODS:
                    break
    assert len(ready) == PODS, f"only {len(ready)} of {PODS} pods were Ready in {PATIENCE} s"
    return sorted(ready.values())


@contextlib.contextmanager
def watched(cluster):
    """Lines NAME=STATUS whenever a pod changes, for at most PATIENCE."""
    line = '-o=jsonpath={.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\\n"}'
    watch = subprocess.Popen([testbed.SCRIPTS / "k", "get", "pods", "--watch", line], stdout=subprocess.PIPE, text=True,
                             start_new_session=True)
    end = lambda: os.killpg(watch.pid, signal.SIGKILL)
    alarm = threading.Timer(PATIENCE, end)
    alarm.start()
    try:
        yield watch.stdout
    finally:
        alarm.cancel()
        end()
        watch.wait()


def percentile(times, percent):
    return times[min(len(times) - 1, len(times) * percent // 100)]
