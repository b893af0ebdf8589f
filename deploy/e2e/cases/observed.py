"""What ops see of the driver: metrics, probes, status, logs, and events on pods."""
import json

import documented
import testbed


def one_scrape_has_every_volume_of_its_node(cluster):
    cluster.claim("scraped")
    cluster.pod("scraped", "dd if=/dev/zero of=/data/x bs=1M count=3 2>/dev/null; cat /data/x >/dev/null; sleep 600", "scraped", "node1")
    cluster.ready("scraped")
    volume = cluster.get("pvc", "scraped")["spec"]["volumeName"]
    written = f'millrace_volume_written_bytes_total{{namespace="default",persistentvolume="{volume}",store="lake"}} {3 << 20}'
    node = cluster.plugin("node", "node1")
    testbed.until(written, 30, lambda: written in cluster.page(node, "/metrics").splitlines())
    assert "ok" in cluster.page(node, "/readyz") and "ok" in cluster.page(node, "/healthz")
    assert 'millrace_csi_call_seconds_count{method="CreateVolume",code="Ok"}' in "".join(
        cluster.page(pod, "/metrics") for pod in cluster.get("pods", "-n", "millrace", "-l", "app.kubernetes.io/component=controller")["items"])
    cluster.k("delete", "pod", "scraped", "--timeout=60s")
    testbed.until("its series end", 60, lambda: volume not in cluster.page(node, "/metrics"))


def status_lists_the_mounts_of_its_node(cluster):
    cluster.claim("listed")
    cluster.pod("listed", "sleep 600", "listed", "node1")
    cluster.ready("listed")
    volume = cluster.get("pvc", "listed")["spec"]["volumeName"]
    mount = cluster.shown("node1", "listed")
    assert mount["persistentVolume"] == volume and mount["namespace"] == "default", mount
    assert mount["store"] == "lake" and mount["worker"] and len(mount["identity"]) == 16, mount
    assert volume in cluster.ask(cluster.plugin("node", "node1"), "status")


def the_log_level_changes_without_a_restart(cluster):
    cluster.claim("logged")
    cluster.pod("logged", "while :; do cat /data/absent 2>/dev/null; sleep 1; done", "logged", "node1")
    cluster.ready("logged")
    node = cluster.plugin("node", "node1")
    worker = cluster.shown("node1", "logged")
    name = node["metadata"]["name"]
    cluster.ask(node, "log-level", "debug")

    def followed():
        lines = cluster.k("-n", "millrace", "logs", name, "-c", "millrace", "--since=60s").splitlines()
        lines = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in lines if line.get("volume") == worker["volumeId"] and line.get("level") == "DEBUG"]

    try:
        testbed.until("a debug line of the volume's worker", 60, followed)
    finally:
        cluster.ask(node, "log-level", "info")
    assert all(one["restartCount"] == 0 for one in cluster.plugin("node", "node1")["status"]["containerStatuses"])
    cluster.ask(cluster.plugin("controller"), "log-level", "info")


def a_secret_that_is_missing_is_told_on_the_pod(cluster):
    """By the kubelet itself: the driver is not called."""
    cluster.static("unlocked", "datasets/images", secret="nowhere")
    cluster.pod("unlocked", "true", "unlocked")
    text = cluster.event("unlocked", 'secrets "nowhere" not found')
    assert "fetching NodePublishSecretRef default/nowhere failed" in text, text


def a_worker_that_was_killed_is_told_on_its_pod(cluster):
    cluster.claim("bereft")
    cluster.pod("bereft", "sleep 600", "bereft", "node1")
    cluster.ready("bereft")
    mount = cluster.shown("node1", "bereft")
    cluster.on("-", "kill", "-9", str(mount["worker"]))
    cluster.event("bereft", documented.befell("VolumeWorkerDied", mount["persistentVolume"]))
    refused = cluster.k("exec", "bereft", "--", "ls", "/data", check=False, errors=True)
    assert "Transport endpoint is not connected" in refused or "Socket not connected" in refused, refused
    cluster.k("delete", "pod", "bereft", "--timeout=60s")


def a_key_that_was_revoked_is_told_on_the_pods_that_use_it(cluster):
    """A made volume and a static one; both serve again when the key is good again."""
    cluster.storage_class("lake-proved", path="${pvc.namespace}/${pvc.name}", authTtl="1s")
    cluster.claim("made", storage_class="lake-proved")
    cluster.static("images", "datasets/images", authTtl="1s")
    read = "echo word >/data/word; while :; do cat /data/word >/dev/null 2>&1; sleep 1; done"
    cluster.pod("made", read, "made", "node1")
    cluster.pod("static", "while :; do head -c 100 /data/0 >/dev/null 2>&1; sleep 1; done", "images", "node2")
    cluster.ready("made", "static")
    volume = cluster.get("pvc", "made")["spec"]["volumeName"]
    is_read = lambda: "word" in cluster.k("exec", "made", "--", "cat", "/data/word", check=False)
    testbed.until("the volume is read", 60, is_read)
    with cluster.served("keyId: alice,", "keyId: alice-before,"):
        cluster.event("made", documented.befell("VolumeCredentialRefused", volume))
        text = cluster.event("static", documented.befell("VolumeCredentialRefused", "images"))
        assert "alice" not in text, text
        refused = cluster.k("exec", "made", "--", "cat", "/data/word", check=False, errors=True)
        assert "Permission denied" in refused, refused
    testbed.until("the volume is read again", 60, is_read)


def a_renewed_secret_reaches_a_running_pod(cluster):
    cluster.secret("renewed", key_id="alice", access_key="alice-of-the-test")
    cluster.static("images", "datasets/images", secret="renewed", authTtl="1s")
    cluster.pod("reader", "while :; do head -c 1000 /data/0 | wc -c >>/tmp/log; sleep 0.5; done", "images", "node1")
    cluster.ready("reader")
    before = cluster.shown("node1", "reader")
    cluster.secret("renewed", key_id="alice-next", access_key="alice-next-of-the-test")
    testbed.until("another identity", 240, lambda: cluster.shown("node1", "reader")["identity"] != before["identity"])
    assert cluster.shown("node1", "reader")["worker"] == before["worker"], "it was mounted anew"
    assert set(cluster.exec("reader", "cat", "/tmp/log").split()) == {"1000"}
    cluster.k("delete", "secret", "renewed")


def a_volume_that_is_full_is_told_on_its_pod(cluster):
    cluster.claim("full", size="4Mi")
    cluster.pod("full", "dd if=/dev/zero of=/data/x bs=1M count=8; sleep 600", "full", "node1")
    cluster.ready("full")
    volume = cluster.get("pvc", "full")["spec"]["volumeName"]
    cluster.event("full", documented.befell("VolumeOverLimit", volume))
