"""What the driver refuses, as whoever wrote the pod or the claim is told it: word for word as docs/events.md has it."""
import re

import documented
import testbed

STORES = ["down", "empty", "eu", "keyless", "lake", "mistaken", "open", "tls"]


def expected(situation, call, store, changes):
    code, text = documented.told(situation, call, store)
    for old, new in changes:
        assert old in text, f"{situation}: no {old!r} in {text!r}"
        text = text.replace(old, new)
    # The stores of the page are those of another test.
    text = re.sub(r"(known (?:stores )?are )[a-z-]+(?:, (?:lake|open|shelf|walled|static-only|unmounted))+$", rf"\1{', '.join(STORES)}", text)
    return f"code = {code} desc = {text}"


def what_cannot_be_mounted_is_told_on_the_pod(cluster):
    cluster.secret("half", key_id="alice")
    cluster.secret("foreign", password="alice-of-the-test")
    cluster.secret("wrong", key_id="alice", access_key="not-alices")
    cluster.secret("unknown", key_id="nobody", access_key="not-alices")
    cluster.secret("mallory", key_id="mallory", access_key="mallory-of-the-test")
    elsewhere = [('"web"', '"default"'), ('"teams/ml-1"', '"datasets"')]
    inline = lambda store, path: {"csi": {"driver": testbed.DRIVER, "volumeAttributes": {"store": store, "path": path},
                                          "nodePublishSecretRef": {"name": "alice"}}}
    # The situation, the store, what of the text is this request's own, the Secret, and the volume's further words.
    static = [
        ("no Secret named", "lake", [], None, {}),
        ("half a Secret", "lake", [], "half", {}),
        ("another Secret's keys", "lake", [], "foreign", {}),
        ("unknown store", "pond", [], "alice", {}),
        ("unknown attribute", "lake", [], "alice", {"memorry": "1Gi"}),
        ("wrong value", "lake", [], "alice", {"memory": "much"}),
        ("wrong key", "lake", [], "wrong", {}),
        ("unknown key", "lake", [], "unknown", {}),
        ("no right to the directory", "lake", [], "mallory", {}),
        ("store down", "down", [], "alice", {"timeout": "2s"}),
        ("certificate not trusted", "tls", [], "alice", {"timeout": "2s"}),
        ("no such bucket", "empty", [], "alice", {}),
    ]
    texts = {}
    for number, (situation, store, changes, secret, words) in enumerate(static):
        name = f"refused{number}"
        cluster.static(name, "datasets/images", secret=secret, store=store, **words)
        cluster.pod(name, "true", name)
        texts[name] = expected(situation, "NodePublishVolume", store, changes)
    cluster.pod("inline-store", "true", volume=inline("eu", "inline"), node="node1")
    texts["inline-store"] = expected("inline volumes forbidden", "NodePublishVolume", "eu", [])
    cluster.pod("inline-path", "true", volume=inline("lake", "datasets"))
    texts["inline-path"] = expected("inline directory forbidden", "NodePublishVolume", "lake", elsewhere)
    compare(cluster, texts)
    for name in ("half", "foreign", "wrong", "unknown", "mallory"):
        cluster.k("delete", "secret", name)


def what_cannot_be_made_is_told_on_the_claim(cluster):
    outside = [("csi.example.org/jurisdiction=us", f"{testbed.DRIVER}/jurisdiction=us")]
    refused = [
        ("no store named", None, [], {"store": None}),
        ("unknown store", "pond", [], {"store": "pond"}),
        ("unknown parameter", "lake", [], {"memorry": "1Gi"}),
        ("wrong value", "lake", [], {"memory": "much"}),
        ("no controller credential", "keyless", [], {"store": "keyless"}),
        ("wrong key", "mistaken", [], {"store": "mistaken"}),
        ("certificate not trusted", "tls", [], {"store": "tls"}),
    ]
    texts = {}
    for number, (situation, store, changes, parameters) in enumerate(refused):
        name = f"unmade{number}"
        cluster.storage_class(name, binding="Immediate", **parameters)
        cluster.claim(name, storage_class=name)
        texts[name] = expected(situation, "CreateVolume", store, changes)
    cluster.storage_class("outside", binding="Immediate", store="eu", allowed={f"{testbed.DRIVER}/jurisdiction": ["us"]})
    cluster.claim("outside", storage_class="outside")
    texts["outside"] = expected("residency", "CreateVolume", "eu", outside)
    compare(cluster, texts)


def compare(cluster, texts):
    """Waits for an event with each text, and looks for secrets and a server's own words in all that were made."""
    missing = dict(texts)

    def all_told():
        for event in cluster.get("events")["items"]:
            name = event["involvedObject"].get("name")
            if missing.get(name) and event["message"].endswith(missing[name]):
                del missing[name]
        return not missing

    try:
        testbed.until("every event", 90, all_told)
    except AssertionError:
        said = {event["involvedObject"]["name"]: event["message"] for event in cluster.get("events")["items"]
                if event["involvedObject"].get("name") in missing}
        raise AssertionError("\n".join(f"{name}: wanted ...{text}\n    got {said.get(name)}" for name, text in missing.items())) from None
    everything = "\n".join(event["message"] for event in cluster.get("events")["items"])
    for never in ("of-the-test", "not-alices", "10.200.0.1:9", "SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "NoSuchBucket"):
        assert never not in everything, f"an event says {never!r}"
