//! The table at the end of `try`.

use std::fmt;
use std::time::Duration;

use indicatif::HumanBytes;

/// What was seen.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// Reading everything through the mount, checks included.
    pub(super) mount: Duration,
    /// Reading the same objects by the other client, checks included.
    pub(super) raw: Duration,
    /// What read them so.
    pub(super) raw_name: &'static str,
    /// GET requests that the store counted while the mount was read; `None` where the store is not ours.
    pub(super) gets: Option<u64>,
    /// Peak resident memory of the worker in bytes, where it could be seen.
    pub(super) worker_peak: Option<u64>,
}

impl Report {
    fn megabytes_per_second(&self, time: Duration) -> f64 {
        self.bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mount = self.megabytes_per_second(self.mount);
        let raw = self.megabytes_per_second(self.raw);
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<24}{value:>14}");
        row(f, "files", self.files.to_string())?;
        row(f, "bytes, all checked", HumanBytes(self.bytes).to_string())?;
        row(f, "through the mount", format!("{mount:.0} MB/s"))?;
        row(f, self.raw_name, format!("{raw:.0} MB/s"))?;
        row(f, "ratio to raw", format!("{:.2}", mount / raw))?;
        row(f, "GET requests", self.gets.map_or("not counted".into(), |gets| gets.to_string()))?;
        row(f, "worker's peak memory", self.worker_peak.map_or("not seen".into(), |peak| HumanBytes(peak).to_string()))
    }
}
