"""What the file servers have in common: a process in memory of the cluster's own, which a signal stops and continues."""
import contextlib

import testbed

# A file system of the cluster's own mount namespace. The stores files say it, too.
HOME = "/mnt"
SCRIPTS = testbed.DEPLOY.parent / "scripts"
# What lies there already, below the roots of the stores `lake` and `open`, and belongs to `user`.
DIRECTORIES = ["lake/inline/default", "open/one", "open/two"]


class Daemon:
    """`start` is called whenever the driver is installed, also where the cluster was up before."""
    name: str
    user: str

    def __init__(self, cluster):
        self.cluster = cluster

    def start(self):
        if (self.cluster.run / "log" / f"{self.name}.log").exists():
            return
        self.cluster.on("-", "mount", "-t", "tmpfs", "-o", "mode=755", "server", HOME)
        self.cluster.daemon(self.name, *self.command())
        testbed.until(f"{self.name} is ready", 120, lambda: "READY" in self.cluster.log(self.name))
        self.prepare()

    def command(self):
        raise NotImplementedError

    def prepare(self):
        """Makes what volumes need that lie there already."""
        raise NotImplementedError

    def pid(self):
        """Its process id, as it is numbered inside."""
        raise NotImplementedError

    @contextlib.contextmanager
    def frozen(self):
        """While it lasts, connections stay and nothing is answered."""
        pid = self.pid()
        self.cluster.on("-", "kill", "-STOP", pid)
        try:
            yield
        finally:
            self.cluster.on("-", "kill", "-CONT", pid)
