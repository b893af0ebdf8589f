//! The names of all metrics, with unit and meaning. Any module may emit them; the exporter is the process's affair.

use metrics::{Unit, describe_gauge, describe_histogram};

/// Histogram, seconds: CSI calls by `method` and `code`.
pub const CSI_CALL_SECONDS: &str = "millrace_csi_call_seconds";

/// Gauge, 0 or 1: the stores file as it lies there was refused, and an older one is in force.
pub const STORES_FILE_REFUSED: &str = "millrace_stores_file_refused";

/// Tells the process's recorder what the names mean.
pub fn describe() {
    describe_histogram!(CSI_CALL_SECONDS, Unit::Seconds, "How long CSI calls took, by method and gRPC code");
    describe_gauge!(
        STORES_FILE_REFUSED,
        Unit::Count,
        "1 while the stores file as it lies there is refused and an older one is in force"
    );
}
