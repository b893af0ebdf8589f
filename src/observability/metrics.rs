//! The names of all metrics, with unit and meaning. Any module may emit them; the exporter is the process's affair.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Histogram, seconds: CSI calls by `method` and `code`.
pub const CSI_CALL_SECONDS: &str = "millrace_csi_call_seconds";

/// Gauge, 0 or 1: the stores file as it lies there was refused, and an older one is in force.
pub const STORES_FILE_REFUSED: &str = "millrace_stores_file_refused";

/// Counter: requests to stores by `backend` and `outcome` (`ok`, or the kind of error); one that is repeated counts
/// each time.
pub const STORE_REQUESTS: &str = "millrace_store_requests_total";

/// Counter, bytes: content read from stores, by `backend`.
pub const STORE_READ_BYTES: &str = "millrace_store_read_bytes_total";

/// Counter, bytes: fetched ahead of readers who then took them.
pub const READ_AHEAD_USED_BYTES: &str = "millrace_read_ahead_used_bytes_total";

/// Counter, bytes: fetched ahead of readers who never came to them.
pub const READ_AHEAD_WASTED_BYTES: &str = "millrace_read_ahead_wasted_bytes_total";

/// Counter: workers that ended before their mounts did.
pub const WORKER_DEATHS: &str = "millrace_worker_deaths_total";

/// Counter: audit lines that the audit log did not take, and that went to the process's log instead.
pub const AUDIT_WRITE_FAILURES: &str = "millrace_audit_write_failures_total";

/// Gauge, bytes: what a volume's files take, as its worker knows.
pub const VOLUME_USED_BYTES: &str = "millrace_volume_used_bytes";

/// Gauge, bytes: what they may take; 0 where the volume has no limit.
pub const VOLUME_LIMIT_BYTES: &str = "millrace_volume_limit_bytes";

/// Gauge, seconds: since the count began that the worker's knowledge rests on.
pub const VOLUME_COUNT_AGE_SECONDS: &str = "millrace_volume_count_age_seconds";

/// Counter, bytes: content read from the disk cache.
pub const CACHE_READ_BYTES: &str = "millrace_cache_read_bytes_total";

/// Counter, bytes: content written to the disk cache.
pub const CACHE_WRITTEN_BYTES: &str = "millrace_cache_written_bytes_total";

/// Counter, bytes: content that was read of the store and not kept, since the disk did not keep up.
pub const CACHE_SKIPPED_BYTES: &str = "millrace_cache_skipped_bytes_total";

/// Counter, bytes: what left the disk cache for something else.
pub const CACHE_EVICTED_BYTES: &str = "millrace_cache_evicted_bytes_total";

/// Gauge, bytes: what the disk cache takes.
pub const CACHE_USED_BYTES: &str = "millrace_cache_used_bytes";

/// Counter: what went wrong with the cache's disk, by `why` (`slow`, `full`, `read-only`, `failed`, `rot`); the volume is
/// read from its store all the same.
pub const CACHE_FAILURES: &str = "millrace_cache_failures_total";

/// Tells the process's recorder what the names mean.
pub fn describe() {
    describe_histogram!(CSI_CALL_SECONDS, Unit::Seconds, "How long CSI calls took, by method and gRPC code");
    describe_gauge!(
        STORES_FILE_REFUSED,
        Unit::Count,
        "1 while the stores file as it lies there is refused and an older one is in force"
    );
    describe_counter!(STORE_REQUESTS, Unit::Count, "Requests to stores, by backend and outcome");
    describe_counter!(STORE_READ_BYTES, Unit::Bytes, "Content read from stores, by backend");
    describe_counter!(READ_AHEAD_USED_BYTES, Unit::Bytes, "Fetched ahead of readers who then took them");
    describe_counter!(READ_AHEAD_WASTED_BYTES, Unit::Bytes, "Fetched ahead of readers who never came to them");
    describe_gauge!(VOLUME_USED_BYTES, Unit::Bytes, "What the volume's files take, as its worker knows");
    describe_gauge!(VOLUME_LIMIT_BYTES, Unit::Bytes, "What the volume's files may take; 0 without a limit");
    describe_gauge!(
        VOLUME_COUNT_AGE_SECONDS,
        Unit::Seconds,
        "Since the count of the volume's files began on which its worker's knowledge rests"
    );
    describe_counter!(WORKER_DEATHS, Unit::Count, "Workers that ended before their mounts did");
    describe_counter!(CACHE_READ_BYTES, Unit::Bytes, "Content read from the disk cache");
    describe_counter!(CACHE_WRITTEN_BYTES, Unit::Bytes, "Content written to the disk cache");
    describe_counter!(CACHE_SKIPPED_BYTES, Unit::Bytes, "Content not kept, since the disk did not keep up");
    describe_counter!(CACHE_EVICTED_BYTES, Unit::Bytes, "What left the disk cache for something else");
    describe_gauge!(CACHE_USED_BYTES, Unit::Bytes, "What the disk cache takes");
    describe_counter!(CACHE_FAILURES, Unit::Count, "What went wrong with the cache's disk, by why");
    describe_counter!(
        AUDIT_WRITE_FAILURES,
        Unit::Count,
        "Audit lines that went to the log, since their file took none"
    );
}
