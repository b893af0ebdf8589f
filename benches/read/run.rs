//! One run of a subject, and what it took.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::mounted::{Mounted, Source};
use super::origin::Counts;
use super::process::{self, Used};
use super::reader::{self, Outcome};
use super::workload::Workload;

/// Runs `workload` on a mount.
pub(crate) async fn through(
    source: &impl Source,
    mounted: &Mounted,
    workload: &Arc<Workload>,
    cut: Duration,
) -> Result<(Outcome, Counts, Used)> {
    let root = mounted.root().to_owned();
    let (listed, work, before) = (root.clone(), workload.clone(), source.counts()?);
    blocking(move || reader::prepare(&listed, &work)).await?;
    let cpu = process::used(mounted.pid()).cpu;
    let outcome = on(&root, workload, cut).await?;
    let mut used = process::used(mounted.pid());
    used.cpu -= cpu;
    Ok((outcome, source.counts()?.since(before), used))
}

/// Runs `workload` on a directory that no process of its own serves.
pub(crate) async fn on(root: &Path, workload: &Arc<Workload>, cut: Duration) -> Result<Outcome> {
    let (root, work) = (root.to_owned(), workload.clone());
    blocking(move || reader::run(&root, &work, cut)).await
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
