"""A test's view of the cluster: kubectl, the servers that run inside, and what there is to wait for."""
import json
import os
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEPLOY = HERE.parent
SCRIPTS = HERE / "cluster"
IMAGE = "millrace.test/millrace:1"
BRIDGE = "10.200.0.1"
DRIVER = "csi.millrace.dev"


def sh(*words, stdin=None, check=True, timeout=600):
    """The command's output; its errors, where it fails, in the exception."""
    done = subprocess.run([str(word) for word in words], input=stdin, text=True, capture_output=True, timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))[:300]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


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
    def __init__(self):
        os.environ.setdefault("K8S_NODES", "node1 node2")
        self.run = Path(os.environ["K8S_RUN"])
        self.bin = Path(os.environ["K8S_BIN"])
        self.millrace = os.environ["MILLRACE"]
        self.image = os.environ["MILLRACE_IMAGE"]

    # --- coming and going

    def up(self):
        subprocess.run([SCRIPTS / "down"], capture_output=True)
        subprocess.run([SCRIPTS / "up"], check=True)
        images = ["csi-provisioner", "csi-resizer", "registrar", "liveness"]
        sh(SCRIPTS / "load", self.image, *[self.bin / "images" / f"{name}.tar" for name in images])

    def down(self):
        subprocess.run([SCRIPTS / "down"], check=True)

    def install(self):
        """The servers, then the driver."""
        self.daemon("s3", self.millrace, "serve-s3", HERE / "servers" / "s3.yaml")
        until("the S3 server's endpoint", 10, lambda: "endpoint" in self.log("s3"))
        self.k("apply", "-k", DEPLOY / "kustomize" / "overlays" / "e2e")
        self.k("apply", "-f", HERE / "servers" / "class.yaml")
        self.settled()

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

    def on(self, node, *words, **how):
        """A command with that node's mounts."""
        return sh(SCRIPTS / "in", node, *words, **how)

    # --- pods and claims

    def claim(self, name, size="1Gi", storage_class="lake", modes=("ReadWriteMany",), **spec):
        self.apply({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": list(modes), "storageClassName": storage_class,
                     "resources": {"requests": {"storage": size}}, **spec}})

    def pod(self, name, command, claim=None, node=None, volume=None, mount=None, security=None, containers=None):
        mount = {"name": "data", "mountPath": "/data", **(mount or {})}
        main = {"name": "main", "image": "millrace.test/busybox:1", "command": ["sh", "-c", command],
                "volumeMounts": [mount]}
        spec = {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": containers or [main],
            "volumes": [{"name": "data", **(volume or {"persistentVolumeClaim": {"claimName": claim}})}]}
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        if security:
            spec["securityContext"] = security
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def phase(self, name):
        return self.get("pod", name)["status"].get("phase")

    def succeeds(self, name, seconds=60):
        """Waits for a pod's end; its log."""
        until(f"the end of pod {name}", seconds, lambda: self.phase(name) in ("Succeeded", "Failed"))
        log = self.k("logs", name)
        assert self.phase(name) == "Succeeded", f"pod {name} failed: {log}"
        return log

    def is_ready(self, name):
        conditions = self.get("pod", name)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def ready(self, *names, seconds=60):
        for name in names:
            until(f"pod {name} Ready", seconds, lambda: self.is_ready(name))

    def exec(self, name, *words):
        return self.k("exec", name, "--", *words)

    def event(self, name, text, seconds=60):
        """The message of an event on a pod or claim that holds `text`."""
        def look():
            for event in self.get("events")["items"]:
                if event["involvedObject"].get("name") == name and text in event["message"]:
                    return event["message"]
        return until(f"an event on {name} that says {text!r}", seconds, look)

    # --- after a case

    def clear(self):
        """Removes what a case made in the default namespace, and waits until no trace is left."""
        for kind in ("pods", "persistentvolumeclaims"):
            self.k("delete", kind, "--all", "--wait=true", "--timeout=120s")
        for volume in self.get("pv")["items"]:
            if volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
                self.k("delete", "pv", volume["metadata"]["name"], "--timeout=60s")
        until("no volume left", 60, lambda: not self.get("pv")["items"])
        self.k("delete", "events", "--all")

    def mounts(self, node):
        table = self.on(node, "cat", "/proc/self/mountinfo")
        return [line for line in table.splitlines() if "fuse.millrace" in line or "millrace" in line.split(" - ")[-1]]

    def tell(self):
        """What a person would look at first."""
        print(self.k("get", "pods,pvc", "-A", check=False))
        print(self.k("get", "events", check=False)[-3000:])
        for component in ("node", "controller"):
            label = f"app.kubernetes.io/component={component}"
            print(self.k("-n", "millrace", "logs", "-l", label, "-c", "millrace", "--tail=15", check=False))
