//! The command line: words only; what they do is in `app`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Shows data in S3, HDFS and NFS as POSIX volumes of Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The roles and tools of the one binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists, releases and adopts the records of volumes.
    Records(Records),
}

/// `millrace records`.
#[derive(Debug, Args)]
pub struct Records {
    /// The stores file.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/millrace/stores.yaml")]
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["millrace", "records", "list", "--json", "--stores", "s.yaml", "--cluster-id", "a"]);
        let Command::Records(records) = cli.command;
        assert_eq!((records.stores, records.cluster_id.as_str()), (PathBuf::from("s.yaml"), "a"));
        assert!(matches!(records.command, RecordsCommand::List { json: true, all_clusters: false, .. }));
    }
}
