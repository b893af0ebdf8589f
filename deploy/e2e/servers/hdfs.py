"""Hadoop's name node and DataNodes."""
import json
import os

from testbed import FETCH

from .daemons import DIRECTORIES, HOME, Daemon

MAKE = ("import sys, urllib.request as r\n"
        "for url in sys.argv[1:]: r.urlopen(r.Request(url, method='PUT'), timeout=20).read()")


class Server(Daemon):
    name = "hdfs"
    # Whom the stores file lets everybody act as.
    user = "alice:users"

    def command(self):
        program = os.environ.get("MILLRACE_HADOOP") or f"{os.environ['MILLRACE_CACHE']}/bin/millrace-hadoop"
        words = [f"-Dmr.dir={HOME}/hadoop", "-Dmr.address=10.200.0.1", "-Dmr.ports=8020,9870", "-Dmr.datanodes=2"]
        # It ends with its standard input.
        return ["bash", "-c", 'sleep infinity | "$@"', "-", program, *words]

    def prepare(self):
        steps = []
        for directory in DIRECTORIES:
            steps.append(self.url(f"/{directory}", "MKDIRS", permission="755"))
            owner, group = self.user.split(":")
            steps.append(self.url(f"/{directory}", "SETOWNER", owner=owner, group=group))
        self.cluster.on("-", "python3", "-c", MAKE, *steps)

    def url(self, path, operation, **words):
        more = "".join(f"&{word}={value}" for word, value in words.items())
        return f"http://10.200.0.1:9870/webhdfs/v1{path}?op={operation}&user.name=root{more}"

    def ask(self, path, operation):
        return json.loads(self.cluster.on("-", "python3", "-c", FETCH, self.url(path, operation)))

    def pid(self):
        ready = next(line for line in self.cluster.log(self.name).splitlines() if line.startswith("READY "))
        return json.loads(ready.removeprefix("READY "))["pid"]

    def owner(self, below):
        """Whose something is below the store's root."""
        status = self.ask(f"/lake/{below}", "GETFILESTATUS")["FileStatus"]
        return f"{status['owner']}:{status['group']}"

    def names(self, below):
        """What lies in a directory below the store's root, hidden names too; nothing where it is not there."""
        names = lambda at: {one["pathSuffix"] for one in self.ask(at, "LISTSTATUS")["FileStatuses"]["FileStatus"]}
        return names(f"/lake/{below}") if below in names("/lake") else set()
