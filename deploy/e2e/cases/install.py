"""The driver as it was applied."""
import json
import os

import testbed


def pods(cluster):
    return cluster.get("pods", "-n", "millrace")["items"]


def everything_is_ready(cluster):
    for pod in pods(cluster):
        for container in pod["status"]["containerStatuses"]:
            name = f"{pod['metadata']['name']}/{container['name']}"
            assert container["ready"], f"{name} is not ready"
            assert container["restartCount"] == 0, f"{name} was restarted {container['restartCount']} times"
    applied = cluster.k("apply", "-k", cluster.overlay, "--dry-run=server", "--warnings-as-errors")
    assert "daemonset.apps/node" in applied, applied


def the_cache_may_lie_in_the_pod(cluster):
    overlay = cluster.run / "overlay"
    overlay.mkdir(exist_ok=True)
    component = testbed.DEPLOY / "kustomize" / "components" / "cache-emptydir"
    (overlay / "kustomization.yaml").write_text(json.dumps({
        "resources": [os.path.relpath(cluster.overlay, overlay)], "components": [os.path.relpath(component, overlay)]}))
    objects = json.loads(cluster.k("apply", "-k", overlay, "--dry-run=server", "--warnings-as-errors", "-o", "json"))["items"]
    node = next(one for one in objects if one["kind"] == "DaemonSet")
    cache = [volume for volume in node["spec"]["template"]["spec"]["volumes"] if volume["name"] == "cache"]
    assert cache == [{"name": "cache", "emptyDir": {}}], cache


def the_nodes_are_registered(cluster):
    for node in ("node1", "node2"):
        drivers = cluster.get("csinode", node)["spec"]["drivers"]
        ours = [driver for driver in drivers if driver["name"] == testbed.DRIVER]
        assert len(ours) == 1, f"{node}: {drivers}"
        keys = sorted(key.removeprefix(testbed.DRIVER + "/") for key in ours[0].get("topologyKeys") or [])
        assert keys == ["jurisdiction", "rack", "region", "zone"], f"{node}: {keys}"


def rights_are_the_golden_ones(cluster):
    with_snapshots = ["snapshots"] if cluster.backend == "hdfs" else []
    for account, expected in (("controller", ["controller", *with_snapshots]), ("node", ["node"])):
        listed = cluster.k("auth", "can-i", "--list", "--as", f"system:serviceaccount:millrace:{account}", "-n", "millrace")
        # Every account may review itself and read the API's own description: not ours to list.
        rows = sorted(" ".join(row.split()) for row in listed.splitlines()[1:] if "selfsubject" not in row and "[/" not in row)
        golden = [row for name in expected for row in (testbed.HERE / "golden" / f"rights-{name}.txt").read_text().splitlines()]
        assert rows == sorted(golden), f"{account} may:\n" + "\n".join(rows)
