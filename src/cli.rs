//! The command line: words only; what they do is in `app`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::topology::{Domain, check_value};

/// Shows data in S3, HDFS and NFS as POSIX volumes of Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, about)]
pub struct Cli {
    /// How to log.
    #[command(flatten)]
    pub log: Log,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The log on standard error.
#[derive(Debug, Args)]
pub struct Log {
    /// Lines for a person or for a program.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// A level (error, warn, info, debug, trace), or levels by module: warn,millrace::csi=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", global = true)]
    pub log_level: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// The roles and tools of the one binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves CSI's Controller service: makes and deletes volumes.
    Controller(Controller),
    /// Serves CSI's Node service: mounts volumes and watches over their workers.
    Node(Node),
    /// Serves one mount. The node plugin starts it.
    #[command(hide = true)]
    Worker,
    /// Keeps one store's records. The controller starts it.
    #[command(hide = true)]
    Clerk,
    /// Plays everything on this machine: a store, both plugins, provisioner and kubelet; reads a data set through the
    /// mount and checks every byte.
    #[cfg(feature = "sandbox")]
    Try(Try),
    /// Serves the embedded S3 server, which holds everything in memory: for tests.
    #[cfg(feature = "sandbox")]
    ServeS3 {
        /// What to serve, to whom and where, in YAML.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Reads a stores file as the driver would, and says what it understood.
    CheckConfig(CheckConfig),
    /// Lists, releases and adopts the records of volumes.
    Records(Records),
    /// Shows on which machines and in which racks the bytes of a path lie, where its store tells.
    Locate(Locate),
    /// Lists what the node plugin on this machine has mounted, for whom, and how it does.
    Status(Status),
    /// Changes what a plugin on this machine logs, and its workers, until it is started again.
    LogLevel(LogLevel),
}

/// Where a node plugin that was told nothing else has its socket.
const CONTROL: &str = "/var/lib/millrace/control.sock";

/// `millrace status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The node plugin's own socket: control.sock in its state directory.
    #[arg(long, value_name = "PATH", env = "MILLRACE_CONTROL_SOCKET", default_value = CONTROL)]
    pub socket: PathBuf,
    /// One JSON array a look.
    #[arg(long)]
    pub json: bool,
    /// Looks every two seconds until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
}

/// `millrace log-level`.
#[derive(Debug, Args)]
pub struct LogLevel {
    /// A level, or levels by module, as in --log-level.
    #[arg(value_name = "FILTER")]
    pub filter: String,
    /// The plugin's own socket: control.sock in the node plugin's state directory, csi.control.sock beside the
    /// controller's csi.sock.
    #[arg(long, value_name = "PATH", env = "MILLRACE_CONTROL_SOCKET", default_value = CONTROL)]
    pub socket: PathBuf,
}

/// What both plugins are told.
#[derive(Debug, Args)]
pub struct Plugin {
    /// The Unix socket to serve on.
    #[arg(long, value_name = "SOCKET", default_value = "unix:///csi/csi.sock", value_parser = socket)]
    pub endpoint: PathBuf,
    /// The name under which the driver is installed. Part of every PersistentVolume: fixed at installation.
    #[arg(long, value_name = "NAME", default_value = "csi.millrace.dev")]
    pub driver_name: String,
    /// The stores file. Watched: a changed one counts as soon as it is right.
    #[arg(long, value_name = "FILE", default_value = STORES)]
    pub stores: PathBuf,
    /// Shows /metrics, /healthz and /readyz over HTTP at ADDRESS, such as 0.0.0.0:9809 or [::]:9809: to whoever reaches it.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// Appends the audit lines to FILE rather than to the log. Opened anew where it was moved away, and at SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
}

const STORES: &str = "/etc/millrace/stores.yaml";

/// `millrace controller`.
#[derive(Debug, Args)]
pub struct Controller {
    /// What both plugins are told.
    #[command(flatten)]
    pub plugin: Plugin,
    /// Whose records these are: two clusters that share a store need two ids.
    #[arg(long, value_name = "ID", default_value = "default")]
    pub cluster_id: String,
}

/// `millrace node`.
#[derive(Debug, Args)]
pub struct Node {
    /// What both plugins are told.
    #[command(flatten)]
    pub plugin: Plugin,
    /// The cluster's name of this machine.
    #[arg(long, value_name = "NAME")]
    pub node_id: String,
    /// Records of mounts and private mount points. Must outlive this process, and be seen by the kubelet
    /// (mountPropagation: Bidirectional).
    #[arg(long, value_name = "DIR", default_value = "/var/lib/millrace")]
    pub state_dir: PathBuf,
    /// The first uid that workers may have. No user of the machine may have one of them.
    #[arg(long, value_name = "UID", default_value_t = 1_900_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000_000))]
    pub worker_uid_base: u32,
    /// How many uids workers may have, and so how many mounts there may be.
    #[arg(long, value_name = "COUNT", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub worker_uid_count: u32,
    /// Where volumes with `cache: disk` keep what was read, on a local disk. Seen by nobody but this process.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Of a hundred bytes of that disk, how many stay free, whoever takes the others.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, requires = "cache_dir", value_parser = clap::value_parser!(u8).range(0..=90))]
    pub cache_free: u8,
    /// How many volumes the cluster may put on this node; 0 for any number.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub max_volumes_per_node: u32,
    /// A worker that answers no ping for so long is killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = patience)]
    pub ping_deadline: Duration,
    /// Where this machine is, in one domain: jurisdiction, region, zone or rack. May be repeated.
    #[arg(long, value_name = "DOMAIN=VALUE", value_parser = located)]
    pub topology: Vec<(Domain, String)>,
    /// Domains that no --topology names are read from the labels of this machine's Node object, by the Kubernetes API.
    #[arg(long)]
    pub topology_from_node: bool,
    /// The label of a domain, instead of topology.kubernetes.io/region and /zone, topology.millrace.dev/jurisdiction
    /// and /rack. May be repeated.
    #[arg(long, value_name = "DOMAIN=LABEL", value_parser = labelled, requires = "topology_from_node")]
    pub topology_label: Vec<(Domain, String)>,
    /// Makes Events on pods, by the Kubernetes API, of what befalls their volumes after they were mounted.
    #[arg(long)]
    pub pod_events: bool,
    /// The address of the Kubernetes API, where this runs in no pod.
    #[arg(long, value_name = "URL")]
    pub kubernetes_api: Option<String>,
    /// The directory of the service account, with its token and ca.crt, for --kubernetes-api.
    #[arg(long, value_name = "DIR", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub service_account: PathBuf,
    /// Workers keep this process's uid, and mounts the kernel's read-ahead: in a user namespace there is no other.
    #[arg(long)]
    pub single_uid: bool,
}

/// `millrace try`.
#[cfg(feature = "sandbox")]
#[derive(Debug, Args)]
pub struct Try {
    /// The kind of store to try with: the embedded S3 server, or an NFS server (nfs-ganesha, as root) on this machine.
    #[arg(long, value_enum, default_value = "s3")]
    pub store: TryStore,
    /// Uses the files below DIR instead of generated ones.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A parameter of the StorageClass, such as fileMode=0755. May be repeated.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// Leaves the volume mounted, prints where, and waits for Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// An S3 store to use instead of the embedded server, as http(s)://host[:port].
    #[arg(long, value_name = "URL", requires = "bucket", requires = "credentials", conflicts_with = "store")]
    pub endpoint: Option<String>,
    /// The bucket in that store. It must be there.
    #[arg(long, value_name = "BUCKET", requires = "endpoint")]
    pub bucket: Option<String>,
    /// A prefix in the bucket, below which everything happens.
    #[arg(long, value_name = "PREFIX", requires = "endpoint", default_value = "")]
    pub prefix: String,
    /// The store's region.
    #[arg(long, value_name = "REGION", requires = "endpoint", default_value = "us-east-1")]
    pub region: String,
    /// PEM certificates to trust for that store instead of the system's.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub ca_bundle: Option<PathBuf>,
    /// A file with the keys for that store, as a store's controllerCredential has them.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub credentials: Option<PathBuf>,
    /// A command to run with the mount as its working directory.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// A kind of store that `try` can start.
#[cfg(feature = "sandbox")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TryStore {
    /// The embedded S3 server.
    S3,
    /// nfs-ganesha.
    Nfs,
    /// Hadoop's name node and DataNodes.
    Hdfs,
}

/// `millrace check-config`.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The stores file.
    #[arg(value_name = "FILE", default_value = STORES)]
    pub file: PathBuf,
    /// Also asks each store that has a controllerCredential whether it keeps two controllers apart.
    #[arg(long)]
    pub connect: bool,
}

/// `millrace locate`.
#[derive(Debug, Args)]
pub struct Locate {
    /// The stores file.
    #[arg(long, value_name = "FILE", default_value = STORES)]
    pub stores: PathBuf,
    /// A store of backend hdfs with a controllerUser, as which it is asked.
    #[arg(value_name = "STORE")]
    pub store: String,
    /// A file or a directory, from the store's root; all of the store where it is not given.
    #[arg(value_name = "PATH", default_value = "")]
    pub path: String,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `millrace records`.
#[derive(Debug, Args)]
pub struct Records {
    /// The stores file.
    #[arg(long, value_name = "FILE", global = true, default_value = STORES)]
    pub stores: PathBuf,
    /// The cluster whose records these are: the controller's --cluster-id.
    #[arg(long, value_name = "ID", global = true, default_value = "default")]
    pub cluster_id: String,
    /// One store only; all that have a controllerCredential otherwise.
    #[arg(long, value_name = "NAME", global = true)]
    pub store: Option<String>,
    /// What to do with them.
    #[command(subcommand)]
    pub command: RecordsCommand,
}

/// What to do with records.
#[derive(Debug, Subcommand)]
pub enum RecordsCommand {
    /// Shows this cluster's volumes.
    List {
        /// Other clusters' too.
        #[arg(long)]
        all_clusters: bool,
        /// Those that are gone, too, as long as their records last.
        #[arg(long)]
        ended: bool,
        /// The records as JSON, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Frees the name and the path of a volume whose data stays where it is: a kept one, or one whose creation or
    /// deletion cannot end.
    Release {
        /// The volume's name: that of its PersistentVolume.
        name: String,
    },
    /// Takes over the records of another cluster, which must not run any more.
    Adopt {
        /// That cluster's id.
        #[arg(long, value_name = "ID")]
        from: String,
    },
}

/// The path in a CSI endpoint, `unix://` and an absolute path.
fn socket(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() { Ok(path.to_owned()) } else { Err("must be unix:// and an absolute path".into()) }
}

/// A word and its value.
#[cfg(feature = "sandbox")]
fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE, such as fileMode=0755".into()),
    }
}

/// A domain and this machine's value in it.
fn located(text: &str) -> Result<(Domain, String), String> {
    let (domain, value) = labelled(text)?;
    check_value(domain, &value).map_err(|why| why.to_string())?;
    Ok((domain, value))
}

/// A domain and a label's name.
fn labelled(text: &str) -> Result<(Domain, String), String> {
    let parts = text.split_once('=').and_then(|(word, rest)| Some((Domain::named(word)?, rest)));
    match parts {
        Some((domain, rest)) if !rest.is_empty() => Ok((domain, rest.to_owned())),
        _ => Err(format!("must be {}, '=' and a text", Domain::ALL.map(Domain::word).join(", "))),
    }
}

/// A time that something may take.
fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok();
    time.filter(|time| *time >= Duration::from_secs(1))
        .ok_or_else(|| "must be a time of 1s or more, such as 10s".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["millrace", "records", "list", "--json", "--stores", "s.yaml", "--cluster-id", "a"]);
        let Command::Records(records) = cli.command else { panic!("not records") };
        assert_eq!((records.stores, records.cluster_id.as_str()), (PathBuf::from("s.yaml"), "a"));
        assert!(matches!(records.command, RecordsCommand::List { json: true, all_clusters: false, .. }));
    }

    #[test]
    fn a_domain_has_a_value_and_a_label() {
        assert_eq!(located("zone=a-1"), Ok((Domain::Zone, "a-1".into())));
        assert_eq!(labelled("rack=example.org/rack"), Ok((Domain::Rack, "example.org/rack".into())));
        for bad in ["zone", "zone=", "country=de", "=a", "zone=a/b", ""] {
            assert!(located(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_a_unix_socket() {
        assert_eq!(socket("unix:///csi/csi.sock"), Ok(PathBuf::from("/csi/csi.sock")));
        assert_eq!(socket("/csi/csi.sock"), Ok(PathBuf::from("/csi/csi.sock")));
        for bad in ["unix://csi.sock", "tcp://127.0.0.1:1", "csi.sock", ""] {
            assert!(socket(bad).is_err(), "{bad}");
        }
    }
}
