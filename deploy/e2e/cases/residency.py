"""A store whose data may be shown in one jurisdiction, and nodes in two: node1 in the eu, node2 in the us."""
import documented
import testbed


def pods_go_to_where_the_data_may_be_shown(cluster):
    """The claim waits for its first consumer, whose node the store's residency decides."""
    cluster.storage_class("eu", store="eu", path="${pvc.namespace}/${pvc.name}")
    names = [f"resident{number}" for number in range(3)]
    for name in names:
        cluster.claim(name, storage_class="eu")
        cluster.pod(name, "echo here >/data/word; sleep 600", name)
    cluster.ready(*names)
    assert {cluster.get("pod", name)["spec"]["nodeName"] for name in names} == {"node1"}
    volume = cluster.get("pv", cluster.get("pvc", names[0])["spec"]["volumeName"])
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    places = [{one["key"].removeprefix(f"{testbed.DRIVER}/"): one["values"] for one in term["matchExpressions"]} for term in terms]
    assert all(place["jurisdiction"] == ["eu"] for place in places), terms
    # A second pod of the claim, which would rather be elsewhere.
    rather = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100, "preference": {"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node2"]}]}}]}}
    cluster.pod("second", "cat /data/word", names[0], affinity=rather)
    assert cluster.succeeds("second").strip() == "here"
    assert cluster.get("pod", "second")["spec"]["nodeName"] == "node1"


def a_pod_that_must_be_elsewhere_gets_no_data(cluster):
    cluster.storage_class("eu", store="eu", path="${pvc.namespace}/${pvc.name}")
    cluster.claim("away", storage_class="eu")
    cluster.pod("away", "true", "away", "node2")
    # Static volumes have no affinity of their own: the node plugin refuses.
    cluster.static("shown", "", store="eu")
    cluster.pod("shown", "true", "shown", "node2")
    code, text = documented.told("residency", "NodePublishVolume", "eu")
    text = text.replace('"node-1": jurisdiction us, region none, zone none', '"node2": jurisdiction us, region none, zone zone-node2')
    cluster.event("shown", f"code = {code} desc = {text}")
    # The volume is made where it may be, and the scheduler says why no node is left.
    cluster.event("away", "node(s) didn't match PersistentVolume's node affinity", kind="Pod")
    assert cluster.phase("away") == "Pending" and cluster.phase("shown") == "Pending"
