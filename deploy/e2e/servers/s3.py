"""The embedded S3 server, and another one whose certificate nobody trusts."""
import testbed


class Server:
    def __init__(self, cluster):
        self.cluster = cluster

    def start(self):
        for name in ("s3", "s3-tls"):
            # A copy, which a case may change.
            file = self.cluster.run / f"{name}.yaml"
            if file.exists():
                continue
            file.write_text((testbed.HERE / "servers" / file.name).read_text())
            self.cluster.daemon(name, self.cluster.millrace, "serve-s3", file)
            testbed.until(f"the endpoint of {name}", 10, lambda: "endpoint" in self.cluster.log(name))
