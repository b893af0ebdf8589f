"""What ops see of the driver: metrics, probes, status, logs, and events on pods."""
import json

import testbed

from . import volumes

READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"


def plugin(cluster, component, node=None):
    pods = cluster.get("pods", "-n", "millrace", "-l", f"app.kubernetes.io/component={component}")["items"]
    return next(pod for pod in pods if node in (None, pod["spec"]["nodeName"]))


def page(cluster, pod, path):
    return testbed.sh(testbed.SCRIPTS / "in", "-", "python3", "-c", READ, f"http://{pod['status']['podIP']}:9809{path}")


def ask(cluster, pod, *words):
    return cluster.k("-n", "millrace", "exec", pod["metadata"]["name"], "-c", "millrace", "--", "/usr/bin/millrace", *words)


def one_scrape_has_every_volume_of_its_node(cluster):
    cluster.claim("scraped")
    cluster.pod("scraped", "dd if=/dev/zero of=/data/x bs=1M count=3 2>/dev/null; cat /data/x >/dev/null; sleep 600", "scraped", "node1")
    cluster.ready("scraped")
    volume = cluster.get("pvc", "scraped")["spec"]["volumeName"]
    written = f'millrace_volume_written_bytes_total{{namespace="default",persistentvolume="{volume}",store="lake"}} {3 << 20}'
    node = plugin(cluster, "node", "node1")
    testbed.until(written, 30, lambda: written in page(cluster, node, "/metrics").splitlines())
    assert "ok" in page(cluster, node, "/readyz") and "ok" in page(cluster, node, "/healthz")
    assert 'millrace_csi_call_seconds_count{method="CreateVolume",code="Ok"}' in "".join(
        page(cluster, pod, "/metrics") for pod in cluster.get("pods", "-n", "millrace", "-l", "app.kubernetes.io/component=controller")["items"])
    cluster.k("delete", "pod", "scraped", "--timeout=60s")
    testbed.until("its series end", 60, lambda: volume not in page(cluster, node, "/metrics"))


def status_lists_the_mounts_of_its_node(cluster):
    cluster.claim("listed")
    cluster.pod("listed", "sleep 600", "listed", "node1")
    cluster.ready("listed")
    volume = cluster.get("pvc", "listed")["spec"]["volumeName"]
    node = plugin(cluster, "node", "node1")
    mounts = json.loads(ask(cluster, node, "status", "--json"))
    mine = [mount for mount in mounts if mount["pod"] == "listed"]
    assert len(mine) == 1 and mine[0]["persistentVolume"] == volume and mine[0]["namespace"] == "default", mounts
    assert mine[0]["store"] == "lake" and mine[0]["worker"] and len(mine[0]["identity"]) == 16, mine
    assert volume in ask(cluster, node, "status")


def the_log_level_changes_without_a_restart(cluster):
    cluster.claim("logged")
    cluster.pod("logged", "while :; do cat /data/absent 2>/dev/null; sleep 1; done", "logged", "node1")
    cluster.ready("logged")
    node = plugin(cluster, "node", "node1")
    worker = next(mount for mount in json.loads(ask(cluster, node, "status", "--json")) if mount["pod"] == "logged")
    name = node["metadata"]["name"]
    ask(cluster, node, "log-level", "debug")

    def followed():
        lines = cluster.k("-n", "millrace", "logs", name, "-c", "millrace", "--since=60s").splitlines()
        lines = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in lines if line.get("volume") == worker["volumeId"] and line.get("level") == "DEBUG"]

    try:
        testbed.until("a debug line of the volume's worker", 60, followed)
    finally:
        ask(cluster, node, "log-level", "info")
    assert all(one["restartCount"] == 0 for one in plugin(cluster, "node", "node1")["status"]["containerStatuses"])
    ask(cluster, plugin(cluster, "controller"), "log-level", "info")


def a_wrong_key_is_told_on_the_pod(cluster):
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong", "namespace": "default"},
                   "stringData": {"key_id": "alice", "access_key": "not-alices"}})
    volumes.static(cluster, "mistaken", "datasets/images", secret="wrong")
    cluster.pod("mistaken", "true", "mistaken")
    text = cluster.event("mistaken", "does not fit the access key id")
    assert 'store "lake"' in text and "not-alices" not in text and "SignatureDoesNotMatch" not in text, text
    cluster.k("delete", "secret", "wrong")


def a_secret_that_is_missing_is_told_on_the_pod(cluster):
    volumes.static(cluster, "unlocked", "datasets/images", secret="nowhere")
    cluster.pod("unlocked", "true", "unlocked")
    text = cluster.event("unlocked", 'secrets "nowhere" not found')
    assert "NodePublishSecretRef default/nowhere" in text, text


def a_worker_that_was_killed_is_told_on_its_pod(cluster):
    cluster.claim("bereft")
    cluster.pod("bereft", "sleep 600", "bereft", "node1")
    cluster.ready("bereft")
    node = plugin(cluster, "node", "node1")
    mount = next(mount for mount in json.loads(ask(cluster, node, "status", "--json")) if mount["pod"] == "bereft")
    cluster.on("node1", "kill", "-9", str(mount["worker"]))
    text = cluster.event("bereft", "its worker ended")
    assert mount["persistentVolume"] in text and "started again" in text, text
    cluster.k("delete", "pod", "bereft", "--timeout=60s")
