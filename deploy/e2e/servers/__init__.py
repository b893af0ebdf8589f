"""What volumes lie on, by backend: servers that run inside the cluster, where every pod and both nodes reach them, and end with it.

Each is started once, and knows of a directory below its store's root whose it is. A file server can be frozen."""
from . import hdfs, nfs, s3

OF = {"s3": s3.Server, "nfs": nfs.Server, "hdfs": hdfs.Server}
