"""nfs-ganesha."""
from .daemons import DIRECTORIES, HOME, SCRIPTS, Daemon


class Server(Daemon):
    name = "nfs"
    # Whom the stores file lets everybody act as.
    user = "1000:1000"

    def command(self):
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", SCRIPTS / "ganesha" / "start.sh",
                f"{HOME}/ganesha", 2049, 20048, "10.200.0.1"]

    def prepare(self):
        self.cluster.on("-", "chmod", "755", f"{HOME}/ganesha/root")
        for directory in DIRECTORIES:
            self.cluster.on("-", "install", "-d", "-m", "755", self.path(directory))
            self.cluster.on("-", "chown", self.user, self.path(directory))

    def path(self, below):
        return f"{HOME}/ganesha/root/{below}"

    def pid(self):
        return self.cluster.on("-", "pgrep", "-x", "ganesha.nfsd").strip()

    def owner(self, below):
        """Whose something is below the store's root."""
        return self.cluster.on("-", "stat", "-c", "%u:%g", "--", self.path(f"lake/{below}")).strip()

    def names(self, below):
        """What lies in a directory below the store's root, hidden names too; nothing where it is not there."""
        return set(self.cluster.on("-", "ls", "-A", self.path(f"lake/{below}"), check=False).split())
