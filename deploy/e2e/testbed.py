"""A test's view of the cluster: kubectl, the servers that run inside, and what there is to wait for."""
import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEPLOY = HERE.parent
SCRIPTS = HERE / "cluster"
IMAGE = "millrace.test/millrace:1"
OVERLAYS = DEPLOY / "kustomize" / "overlays"
DRIVER = "csi.millrace.dev"
STATE = "/var/lib/kubelet/millrace"
# What a case made that lies in no namespace, and goes with it.
OF_CASE = {"labels": {"millrace.test/of": "case"}}
FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"


def sh(*words, stdin=None, check=True, errors=False, timeout=600):
    """The command's output, with what it says on standard error where `errors`; if it fails, that is in the exception."""
    done = subprocess.run([str(word) for word in words], input=stdin, text=True, capture_output=True, timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))[:300]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr if errors else done.stdout


def until(what, seconds, question):
    """The first true answer of `question`; an error that names `what` after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.3)


class Cluster:
    def __init__(self, backend, server):
        self.backend = backend
        self.overlay = OVERLAYS / ("e2e" if backend == "s3" else f"e2e-{backend}")
        self.server = server(self)
        os.environ.setdefault("K8S_NODES", "node1 node2")
        self.run = Path(os.environ["K8S_RUN"])
        self.bin = Path(os.environ["K8S_BIN"])
        self.millrace = os.environ["MILLRACE"]
        self.image = os.environ["MILLRACE_IMAGE"]

    # --- coming and going

    def up(self):
        subprocess.run([SCRIPTS / "down"], capture_output=True)
        subprocess.run([SCRIPTS / "up"], check=True)
        images = ["csi-provisioner", "csi-resizer", "csi-snapshotter", "snapshot-controller", "registrar", "liveness"]
        sh(SCRIPTS / "load", self.image, *[self.bin / "images" / f"{name}.tar" for name in images])

    def down(self):
        subprocess.run([SCRIPTS / "down"], check=True)

    def install(self):
        """The servers, what snapshots need (their custom resources everywhere, since the examples name them), then the driver."""
        self.server.start()
        resources = self.bin / "snapshots"
        self.k("apply", "-f", resources / "crd")
        self.k("wait", "--for=condition=Established", "--timeout=30s", "-f", resources / "crd")
        if self.backend == "hdfs":
            self.k("apply", "-f", resources / "controller")
        self.k("apply", "-k", self.overlay)
        self.k("apply", "-f", HERE / "servers" / f"classes-{self.backend}.yaml")
        self.settled()

    @contextlib.contextmanager
    def served(self, old, new):
        """While it lasts, the S3 server's file has `new` in the place of `old`, which it follows."""
        file = self.run / "s3.yaml"
        before = file.read_text()
        assert old in before, old
        try:
            self._serve(before.replace(old, new))
            yield
        finally:
            self._serve(before)

    def _serve(self, text):
        file, fresh = self.run / "s3.yaml", self.run / "s3.yaml.new"
        fresh.write_text(text)
        fresh.rename(file)
        time.sleep(1.2)

    def settled(self, seconds=120):
        """Waits until every pod of the driver is there and ready. (No rollout to ask for: the DaemonSet is OnDelete.)"""
        nodes = len(self.get("nodes")["items"])

        def are_ready():
            pods = self.get("pods", "-n", "millrace")["items"]
            ready = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and all(
                one["ready"] for one in pod["status"].get("containerStatuses", [{"ready": False}]))]
            return len(ready) == len(pods) == nodes + 2

        until("the driver's pods ready", seconds, are_ready)

    def daemon(self, name, *words):
        """Starts a server in the cluster's namespaces; it ends with the cluster."""
        script = f'. "{SCRIPTS}/env.sh"; daemon - {name} "$@"'
        sh("bash", "-c", script, "-", *words)

    def log(self, name):
        return (self.run / "log" / f"{name}.log").read_text()

    def counters(self):
        """What the S3 server has served so far."""
        time.sleep(1.2)
        lines = [json.loads(line) for line in self.log("s3").splitlines() if line.startswith('{"bodyBytes')]
        return lines[-1] if lines else {"bodyBytes": 0, "requests": {}}

    # --- kubectl

    def k(self, *words, **how):
        return sh(SCRIPTS / "k", *words, **how)

    def get(self, *words):
        return json.loads(self.k("get", *words, "-o", "json"))

    def apply(self, *objects):
        self.k("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def patch(self, kind, name, patch, *words):
        self.k("patch", kind, name, *words, "--type=merge", "-p", json.dumps(patch))

    def on(self, node, *words, **how):
        """A command with that node's mounts."""
        return sh(SCRIPTS / "in", node, *words, **how)

    # --- the driver

    def plugin(self, component, node=None):
        """The pod of the controller or of a node's plugin, one that is not about to go."""
        pods = self.get("pods", "-n", "millrace", "-l", f"app.kubernetes.io/component={component}")["items"]
        return next(pod for pod in pods
                    if node in (None, pod["spec"].get("nodeName")) and "deletionTimestamp" not in pod["metadata"])

    def page(self, pod, path):
        """What a plugin shows over HTTP."""
        return self.on("-", "python3", "-c", FETCH, f"http://{pod['status']['podIP']}:9809{path}")

    def ask(self, pod, *words):
        """Runs the driver's binary in its pod."""
        return self.k("-n", "millrace", "exec", pod["metadata"]["name"], "-c", "millrace", "--", "/usr/bin/millrace", *words)

    def shown(self, node, pod):
        """What `millrace status` says of the one mount that a pod has on the node."""
        mounts = json.loads(self.ask(self.plugin("node", node), "status", "--json"))
        mine = [mount for mount in mounts if mount["pod"] == pod]
        assert len(mine) == 1, mounts
        return mine[0]

    def workers(self):
        """The process ids of all workers of both nodes, as they are numbered inside."""
        # The whole command line, so that this script is not one of them.
        script = "for p in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null <$p/cmdline | grep -qx '[^ ]*/millrace worker ' && echo ${p#/proc/}; done; true"
        return [int(line) for line in self.on("-", "bash", "-c", script).split()]

    def records(self, *words):
        """The controller's records of volumes in the store `lake`."""
        lines = self.administer("list", "--json", *words).splitlines()
        return [json.loads(line)["record"] for line in lines]

    def administer(self, *words):
        """`millrace records`, as an administrator runs it."""
        keys, stores = self.run / "lake.keys", self.run / "lake.yaml"
        keys.write_text("key_id: controller\naccess_key: controller-of-the-test\n")
        keys.chmod(0o600)
        stores.write_text("stores: [{name: lake, backend: s3, endpoint: 'http://10.200.0.1:9000', bucket: lake, "
                          f"controllerCredential: {keys}}}]\n")
        return self.on("-", self.millrace, "records", "--stores", stores, *words)

    # --- pods and claims

    def storage_class(self, name, binding="WaitForFirstConsumer", secret="alice", reclaim="Delete", allowed=None, **parameters):
        """A class of the store `lake` where `parameters` name no other, for nodes whose labels are `allowed`. It goes with
        the case."""
        if secret:
            parameters |= {"csi.storage.k8s.io/node-publish-secret-name": secret,
                           "csi.storage.k8s.io/node-publish-secret-namespace": "${pvc.namespace}"}
        parameters = {word: value for word, value in ({"store": "lake"} | parameters).items() if value is not None}
        topologies = [{"matchLabelExpressions": [{"key": key, "values": values} for key, values in allowed.items()]}] if allowed else []
        self.apply({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, **OF_CASE},
            "provisioner": DRIVER, "volumeBindingMode": binding, "reclaimPolicy": reclaim,
            "allowVolumeExpansion": True, "parameters": parameters, "allowedTopologies": topologies})

    def static(self, name, path, secret="alice", modes=("ReadOnlyMany",), **attributes):
        """A PersistentVolume of what lies in the store, and its claim."""
        csi = {"driver": DRIVER, "volumeHandle": f"{name}-static",
               "volumeAttributes": {"store": "lake", "path": path} | attributes}
        if "ReadOnlyMany" in modes:
            csi["readOnly"] = True
        if secret:
            csi["nodePublishSecretRef"] = {"name": secret, "namespace": "default"}
        self.apply({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, **OF_CASE},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": list(modes), "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"name": name, "namespace": "default"},
                "csi": csi}})
        self.claim(name, storage_class="", modes=modes, volumeName=name)

    def secret(self, name, namespace="default", **words):
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
                    "stringData": words})

    def claim(self, name, size="1Gi", storage_class="lake", modes=("ReadWriteMany",), namespace="default", annotations=None, **spec):
        self.apply({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}},
            "spec": {"accessModes": list(modes), "storageClassName": storage_class,
                     "resources": {"requests": {"storage": size}}, **spec}})

    def pod(self, name, command, claim=None, node=None, volume=None, mount=None, security=None, containers=None,
            namespace="default", **more):
        mount = {"name": "data", "mountPath": "/data", **(mount or {})}
        main = {"name": "main", "image": "millrace.test/busybox:1", "command": ["sh", "-c", command],
                "volumeMounts": [mount]}
        spec = {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": containers or [main],
            "volumes": [{"name": "data", **(volume or {"persistentVolumeClaim": {"claimName": claim}})}], **more}
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        if security:
            spec["securityContext"] = security
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec})

    def phase(self, name, namespace="default"):
        return self.get("pod", name, "-n", namespace)["status"].get("phase")

    def succeeds(self, name, seconds=90, namespace="default"):
        """Waits for a pod's end; its log."""
        until(f"the end of pod {name}", seconds, lambda: self.phase(name, namespace) in ("Succeeded", "Failed"))
        log = self.k("logs", name, "-n", namespace)
        assert self.phase(name, namespace) == "Succeeded", f"pod {name} failed: {log}"
        return log

    def is_ready(self, name):
        conditions = self.get("pod", name)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def ready(self, *names, seconds=90):
        for name in names:
            until(f"pod {name} Ready", seconds, lambda: self.is_ready(name))

    def exec(self, name, *words):
        return self.k("exec", name, "--", *words)

    def event(self, name, text, seconds=90, kind=None, namespace="default"):
        """The message of an event on a pod or claim (or on a `kind` alone) that holds `text`."""
        def look():
            for event in self.get("events", "-n", namespace)["items"]:
                object = event["involvedObject"]
                if object.get("name") == name and kind in (None, object["kind"]) and text in event["message"]:
                    return event["message"]
        return until(f"an event on {name} that says {text!r}", seconds, look)

    # --- after a case

    def clear(self):
        """Removes what a case made in the default namespace, and waits until no trace is left."""
        # A volume from a snapshot goes before the snapshot, and that before its source.
        for kind in ("pods", "persistentvolumeclaims", "volumesnapshots"):
            self.k("delete", kind, "--all", "--wait=true", "--timeout=120s")
        for volume in self.get("pv")["items"]:
            if volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
                self.k("delete", "pv", volume["metadata"]["name"], "--timeout=60s")
        until("no volume left", 60, lambda: not self.get("pv,volumesnapshotcontents")["items"])
        self.k("delete", "storageclasses,volumeattributesclasses", "-l", "millrace.test/of=case", "--timeout=60s")
        # All by one request: there may be hundreds.
        self.k("delete", "--raw", "/api/v1/namespaces/default/events")

    def mounts(self, node):
        table = self.on(node, "cat", "/proc/self/mountinfo")
        return [line for line in table.splitlines() if "millrace" in line.split(" - ")[-1]]

    def traces(self):
        """What volumes in use leave on the nodes: mounts, workers, their cgroups, records and directories."""
        found = [f"worker {pid}" for pid in self.workers()]
        for node in os.environ["K8S_NODES"].split():
            found += self.mounts(node)
            listed = self.on(node, "find", f"{STATE}/mounts", f"{STATE}/targets", "-mindepth", "1", check=False)
            found += [f"{node}: {line}" for line in listed.split()]
            pods = self.on(node, "find", "/var/lib/kubelet/pods", "-maxdepth", "4", "-path", "*kubernetes.io~csi/*", check=False)
            found += [f"{node}: {line}" for line in pods.split()]
        name = os.environ.get("K8S_NAME", "millrace")
        cgroups = self.on("-", "find", "/sys/fs/cgroup", "-type", "d", "-path", f"*/{name}-node*/millrace-*-*", check=False)
        return found + cgroups.split()

    def tell(self):
        """What a person would look at first."""
        print(self.k("get", "pods,pvc", "-A", check=False))
        print(self.k("get", "events", check=False)[-3000:])
        for component in ("node", "controller"):
            label = f"app.kubernetes.io/component={component}"
            print(self.k("-n", "millrace", "logs", "-l", label, "-c", "millrace", "--tail=8", check=False)[-4000:])
