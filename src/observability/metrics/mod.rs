//! Every metric: its name, what it means, and its labels with all the values that they may have. Any module counts by
//! name, through the `metrics` facade; a metric that is new is one line here, and one in `docs/metrics.md`.
//!
//! The table is also the schema by which a worker's numbers travel to the node plugin: a number stands for a metric and
//! its labels' values ([`Numbers`]), so that no word of a worker's ever becomes a label. [`ProcessRecorder`] is where
//! a process counts, [`exposition`] what a scrape gets.

pub mod exposition;
mod numbers;
mod recorder;

pub use numbers::Numbers;
pub use recorder::ProcessRecorder;

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// How its values add up.
    pub kind: Kind,
    /// Whose it is.
    pub scope: Scope,
    /// For the person who reads it.
    pub help: &'static str,
    /// Labels beyond those of the scope.
    pub labels: &'static [Label],
}

/// How a metric's values, of several workers that serve one volume, become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; summed up, also over workers that have ended.
    Counter,
    /// Seconds in [`BUCKETS`]; summed up like a counter.
    Histogram,
    /// A level of which each worker has its share: summed up.
    Sum,
    /// A level that each worker tells of the same thing: the highest counts.
    Highest,
}

/// Whose a metric is, which decides the labels that the node plugin adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The plugin's own.
    Plugin,
    /// A volume's: `namespace`, `persistentvolume`, `store`.
    Volume,
    /// A volume's traffic with its store: `zone` too, the node's.
    Traffic,
}

/// A label and the values that it may have.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values. Another one is counted under the last.
    pub values: &'static [&'static str],
}

/// The upper bounds of a histogram's buckets, in seconds; one without a bound follows.
pub const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// CSI's calls, less those that no plugin here answers.
const METHODS: &[&str] = &[
    "GetPluginInfo",
    "GetPluginCapabilities",
    "Probe",
    "CreateVolume",
    "DeleteVolume",
    "ValidateVolumeCapabilities",
    "ListVolumes",
    "GetCapacity",
    "ControllerGetCapabilities",
    "ControllerExpandVolume",
    "ControllerGetVolume",
    "ControllerModifyVolume",
    "ControllerGetVolumeHealth",
    "ControllerListVolumeHealth",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeGetVolumeStats",
    "NodeExpandVolume",
    "NodeGetVolumeHealth",
    "NodeGetStorageHealth",
    "NodeGetCapabilities",
    "NodeGetInfo",
    "other",
];

/// gRPC's.
const CODES: &[&str] = &[
    "Ok",
    "Cancelled",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
    "Unknown",
];

/// What programs ask of a volume, as the kernel passes it on.
const OPERATIONS: &[&str] = &[
    "lookup", "getattr", "setattr", "mkdir", "unlink", "rmdir", "rename", "link", "open", "create", "read", "write",
    "flush", "release", "fsync", "opendir", "readdir", "ioctl", "lseek", "access", "other",
];

/// How that ends.
const ERRNOS: &[&str] = &[
    "ok",
    "ENOENT",
    "EEXIST",
    "ENOTDIR",
    "EISDIR",
    "ENOTEMPTY",
    "EACCES",
    "EPERM",
    "ESTALE",
    "EOPNOTSUPP",
    "EXDEV",
    "EINVAL",
    "ENAMETOOLONG",
    "EFBIG",
    "ENOSPC",
    "EDQUOT",
    "EROFS",
    "EBUSY",
    "EBADF",
    "ENXIO",
    "EINTR",
    "EIO",
];

/// What is asked of a store, in one request.
const REQUESTS: &[&str] = &["read", "stat", "list", "write", "copy", "multipart", "remove", "other"];

/// How a store answers: `throttled` asks for fewer requests, `fault` is its own, `unreached` no answer at all.
const ANSWERS: &[&str] = &["ok", "not-found", "denied", "conflict", "throttled", "fault", "unreached", "refused"];

/// What becomes of an Event.
const EVENT_ENDS: &[&str] = &["ok", "dropped", "failed"];

/// What can go wrong with a cache's disk.
const CACHE_TROUBLES: &[&str] = &["slow", "full", "read-only", "rot", "failed"];

/// Why a worker ended before its mount did.
const DEATHS: &[&str] = &["memory", "killed", "failed", "silent", "unknown"];

macro_rules! table {
    ($($(#[doc = $help:literal])+
       $name:ident = $kind:ident $word:literal of $scope:ident $({ $($label:literal: $values:ident),+ })?;)+) => {
        $($(#[doc = $help])+ pub const $name: &str = $word;)+

        /// All metrics.
        pub const TABLE: &[Metric] = &[$(Metric {
            name: $word,
            kind: Kind::$kind,
            scope: Scope::$scope,
            help: concat!($($help),+),
            labels: &[$($(Label { name: $label, values: $values }),+)?],
        }),+];
    };
}

table! {
    /// How long CSI calls took, from the request to the answer
    CSI_CALL_SECONDS = Histogram "millrace_csi_call_seconds" of Plugin { "method": METHODS, "code": CODES };
    /// 1 while the stores file as it lies there is refused and an older one is in force
    STORES_FILE_REFUSED = Highest "millrace_stores_file_refused" of Plugin;
    /// Audit lines that went to the log, since their file took none
    AUDIT_WRITE_FAILURES = Counter "millrace_audit_write_failures_total" of Plugin;
    /// Events on pods: made, not taken by the Kubernetes API, or dropped since there were too many
    EVENTS = Counter "millrace_events_total" of Plugin { "status": EVENT_ENDS };
    /// Mounts on this node, each with a worker of its own
    MOUNTS = Sum "millrace_mounts" of Plugin;
    /// Workers that ended before their mounts did
    WORKER_DEATHS = Counter "millrace_worker_deaths_total" of Plugin { "reason": DEATHS };
    /// Workers started in place of one that had died, by why that one had
    WORKER_RESTARTS = Counter "millrace_worker_restarts_total" of Plugin { "reason": DEATHS };

    /// Pods on this node that the volume is shown to
    VOLUME_TARGETS = Sum "millrace_volume_targets" of Volume;
    /// What programs asked of the volume, by how it ended
    VOLUME_OPERATIONS = Counter "millrace_volume_operations_total" of Volume { "kind": OPERATIONS, "status": ERRNOS };
    /// Bytes of files given to programs; what the kernel's page cache gives is not among them
    VOLUME_READ_BYTES = Counter "millrace_volume_read_bytes_total" of Volume;
    /// Bytes of files taken from programs
    VOLUME_WRITTEN_BYTES = Counter "millrace_volume_written_bytes_total" of Volume;
    /// What the volume's files take, as its worker knows
    VOLUME_USED_BYTES = Highest "millrace_volume_used_bytes" of Volume;
    /// What the volume's files may take; 0 without a limit
    VOLUME_LIMIT_BYTES = Highest "millrace_volume_limit_bytes" of Volume;
    /// Since the count of the volume's files began on which its worker's knowledge rests; absent before the first
    VOLUME_COUNT_AGE_SECONDS = Highest "millrace_volume_count_age_seconds" of Volume;
    /// Resident memory of the volume's workers
    WORKER_MEMORY_BYTES = Sum "millrace_worker_memory_bytes" of Volume;
    /// What the workers' buffers may hold: the volume's `memory`
    BUDGET_BYTES = Sum "millrace_worker_budget_bytes" of Volume;
    /// What the workers' buffers hold, with what is reserved for reads that somebody waits for
    BUDGET_HELD_BYTES = Sum "millrace_worker_budget_held_bytes" of Volume;
    /// Bytes fetched ahead of a reader that it then read
    READ_AHEAD_USED_BYTES = Counter "millrace_read_ahead_used_bytes_total" of Volume;
    /// Bytes fetched ahead of a reader that it never read
    READ_AHEAD_WASTED_BYTES = Counter "millrace_read_ahead_wasted_bytes_total" of Volume;
    /// Content read from the disk cache
    CACHE_READ_BYTES = Counter "millrace_cache_read_bytes_total" of Volume;
    /// Content written to the disk cache
    CACHE_WRITTEN_BYTES = Counter "millrace_cache_written_bytes_total" of Volume;
    /// Content that was read of the store and not kept, since the disk did not keep up
    CACHE_SKIPPED_BYTES = Counter "millrace_cache_skipped_bytes_total" of Volume;
    /// What left the disk cache for something else
    CACHE_EVICTED_BYTES = Counter "millrace_cache_evicted_bytes_total" of Volume;
    /// What the disk cache takes
    CACHE_USED_BYTES = Sum "millrace_cache_used_bytes" of Volume;
    /// What went wrong with the cache's disk; the volume is read from its store all the same
    CACHE_FAILURES = Counter "millrace_cache_failures_total" of Volume { "reason": CACHE_TROUBLES };
    /// Requests to the store; one that is repeated counts each time
    STORE_REQUESTS = Counter "millrace_store_requests_total" of Volume { "kind": REQUESTS, "status": ANSWERS };
    /// Of these, on S3, those that repeat one that failed or broke off
    STORE_RETRIES = Counter "millrace_store_retries_total" of Volume;
    /// How long the store took to begin its answer, where it gave one
    STORE_REQUEST_SECONDS = Histogram "millrace_store_request_seconds" of Volume { "kind": REQUESTS };
    /// Bytes of the store's answers
    STORE_FETCHED_BYTES = Counter "millrace_store_fetched_bytes_total" of Traffic;
    /// Bytes sent to the store
    STORE_SENT_BYTES = Counter "millrace_store_sent_bytes_total" of Traffic;
    /// Of both, what went between this node's zone and another one, where the store's `zone` is known
    STORE_CROSSED_BYTES = Counter "millrace_store_crossed_bytes_total" of Traffic;
}

impl Metric {
    /// How many numbers it has.
    fn width(&self) -> usize {
        self.series() * self.depth()
    }

    /// How many combinations of its labels' values.
    fn series(&self) -> usize {
        self.labels.iter().map(|label| label.values.len()).product()
    }

    /// Numbers of one series: a histogram's buckets, the one without a bound, and the sum in microseconds.
    fn depth(&self) -> usize {
        if self.kind == Kind::Histogram { BUCKETS.len() + 2 } else { 1 }
    }

    /// The values of its labels in its series `number`.
    fn values(&self, mut number: usize) -> Vec<(&'static str, &'static str)> {
        let mut values = Vec::new();
        for label in self.labels.iter().rev() {
            values.push((label.name, label.values[number % label.values.len()]));
            number /= label.values.len();
        }
        values.reverse();
        values
    }

    /// The series of these values, in any order; one that is not in the table counts as the label's last.
    fn number<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> usize {
        self.labels.iter().fold(0, |number, label| {
            let given = value(label.name).unwrap_or_default();
            let at = label.values.iter().position(|known| *known == given).unwrap_or(label.values.len() - 1);
            number * label.values.len() + at
        })
    }
}

/// Every metric with the place of its first number.
fn layout() -> impl Iterator<Item = (usize, &'static Metric)> {
    TABLE.iter().scan(0, |next, metric| {
        let first = *next;
        *next += metric.width();
        Some((first, metric))
    })
}

/// The metric called `name`, with the place of its first number.
fn find(name: &str) -> Option<(usize, &'static Metric)> {
    layout().find(|(_, metric)| metric.name == name)
}

/// How many numbers there are.
fn width() -> usize {
    TABLE.iter().map(Metric::width).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_say_what_they_are() {
        let names: HashSet<_> = TABLE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for metric in TABLE {
            assert!(metric.name.starts_with("millrace_"), "{metric:?}");
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{metric:?}");
            assert_eq!(
                metric.name.ends_with("_seconds") && metric.kind != Kind::Highest,
                metric.kind == Kind::Histogram
            );
        }
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let documented: Vec<_> = page.lines().filter(|line| line.starts_with("| `millrace_")).collect();
        let row = |metric: &Metric| {
            let scope: &[&str] = match metric.scope {
                Scope::Plugin => &[],
                Scope::Volume => &["namespace", "persistentvolume", "store"],
                Scope::Traffic => &["namespace", "persistentvolume", "store", "zone"],
            };
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
                Kind::Sum | Kind::Highest => "gauge",
            };
            let labels: Vec<_> = scope.iter().copied().chain(metric.labels.iter().map(|label| label.name)).collect();
            format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help.trim())
        };
        let expected: Vec<_> = TABLE.iter().map(row).collect();
        assert!(documented == expected, "docs/metrics.md should have:\n{}", expected.join("\n"));
    }

    #[test]
    fn a_series_is_found_by_its_values_and_the_values_by_the_series() {
        for metric in TABLE {
            for number in 0..metric.series() {
                let values = metric.values(number);
                let of = |name: &str| values.iter().find(|(label, _)| *label == name).map(|(_, value)| *value);
                assert_eq!(metric.number(of), number, "{values:?}");
            }
        }
        let (_, metric) = find(CSI_CALL_SECONDS).unwrap();
        let odd = metric.number(|name| (name == "method").then_some("Steal"));
        assert_eq!(metric.values(odd), [("method", "other"), ("code", "Unknown")]);
    }
}
