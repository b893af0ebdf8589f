"""The examples of deploy/ as they lie there."""
import os

import testbed

EXAMPLES = testbed.DEPLOY / "examples"
# What their pods run is busybox under its usual name.
IMAGE = ("millrace.test/busybox:1", "docker.io/library/busybox:1.37")


def apply(cluster, name):
    for node in os.environ["K8S_NODES"].split():
        cluster.on(node, "ctr", "-n", "k8s.io", "images", "tag", "--force", *IMAGE)
    cluster.k("apply", "-f", EXAMPLES / f"{name}.yaml", "--warnings-as-errors=true")


def remove(cluster, name):
    cluster.k("delete", "-f", EXAMPLES / f"{name}.yaml", "--ignore-not-found", "--timeout=90s")


def every_example_is_taken_without_a_warning(cluster):
    cluster.k("create", "namespace", "team-a")
    for example in sorted(EXAMPLES.glob("*.yaml")):
        cluster.k("apply", "--dry-run=server", "--warnings-as-errors=true", "-f", example)
    cluster.k("delete", "namespace", "team-a", "--timeout=60s")


def a_training_pod_reads_a_data_set(cluster):
    cluster.secret("lake", key_id="alice", access_key="alice-of-the-test")
    apply(cluster, "static-dataset")
    assert cluster.succeeds("training").split() == ["0", "1"]
    remove(cluster, "static-dataset")
    cluster.k("delete", "secret", "lake")


def an_inline_volume_and_a_notebooks(cluster):
    cluster.secret("lake", key_id="alice", access_key="alice-of-the-test")
    cluster.secret("lake-alice", key_id="alice", access_key="alice-of-the-test")
    apply(cluster, "inline")
    cluster.succeeds("inline")
    apply(cluster, "user-data")
    cluster.pod("notebook", "echo cell >/data/cells && cat /data/cells", "notebook")
    assert cluster.succeeds("notebook").strip() == "cell"
    cluster.k("delete", "pod", "notebook", "inline", "--timeout=60s")
    remove(cluster, "user-data")
    for name in ("lake", "lake-alice"):
        cluster.k("delete", "secret", name)


def global_team_and_user_data_are_read_by_those_in_the_table(cluster):
    """Each cell of the table in deploy/README.md: a key reaches its own place and no other."""
    teams = ("team-a", "team-b")
    for name in ("global-data", "team-data", "user-data"):
        apply(cluster, name)
    cluster.k("delete", "pvc", "notebook", "--timeout=60s")
    cluster.secret("lake-global", namespace="millrace", key_id="global", access_key="global-of-the-test")
    try:
        for team in teams:
            cluster.k("create", "namespace", team)
            cluster.secret("lake", namespace=team, key_id=team, access_key=f"{team}-of-the-test")
            may = cluster.k("auth", "can-i", "get", "secret/lake-global", "-n", "millrace",
                            "--as", f"system:serviceaccount:{team}:default", check=False)
            assert may.strip() == "no", f"{team} may read the Secret of the global data"
        for user in ("alice", "bob"):
            cluster.secret(f"lake-{user}", namespace="team-a", key_id=f"user-{user}", access_key=f"user-{user}-of-the-test")
        writes = lambda where: f"echo {where} >/data/word && cat /data/word"
        for team in teams:
            for storage_class, name in (("lake-global", "global"), ("lake-team", "team")):
                use(cluster, team, name, storage_class, writes(f"{team}-{name}"))
        for user in ("alice", "bob"):
            use(cluster, "team-a", f"of-{user}", "lake-user", writes(user), annotations={"millrace.dev/secret": f"lake-{user}"})
        for namespace, pod in [(team, name) for team in teams for name in ("global", "team")] + [("team-a", "of-alice"), ("team-a", "of-bob")]:
            cluster.succeeds(pod, namespace=namespace)
        # One user's claim with another's keys, and one team's directory with another's.
        use(cluster, "team-a", "stolen", "lake-user", "true", annotations={"millrace.dev/secret": "lake-bob"}, claim="of-alice-too")
        foreign = {"csi": {"driver": testbed.DRIVER, "volumeAttributes": {"store": "lake", "path": "teams/team-a/team"},
                           "nodePublishSecretRef": {"name": "lake"}}}
        cluster.pod("foreign", "true", volume=foreign, namespace="team-b")
        cluster.event("stolen", "the store refuses this identity", namespace="team-a")
        cluster.event("foreign", 'pods in namespace "team-b" may not name the directory', namespace="team-b")
    finally:
        for team in teams:
            cluster.k("delete", "namespace", team, "--ignore-not-found", "--timeout=120s")
        cluster.k("-n", "millrace", "delete", "secret", "lake-global", "--ignore-not-found")
        for name in ("global-data", "team-data", "user-data"):
            remove(cluster, name)


def use(cluster, namespace, name, storage_class, command, annotations=None, claim=None):
    """A claim of the class, and a pod that uses it."""
    claim = claim or name
    cluster.claim(claim, storage_class=storage_class, namespace=namespace, annotations=annotations)
    cluster.pod(name, command, claim, namespace=namespace)
