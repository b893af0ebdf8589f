//! R7: what a second epoch costs, of which all is on the node already. The limit is the local disk, read in the same way.
//!
//! In the same mount the kernel still has pages of what fits; after a remount it has none of the mount's, and what the
//! cache keeps comes from the disk's pages, of which the kernel has all or none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::bare::Bare;
use super::local;
use super::mounted::{How, Mounted};
use super::origin::{Counts, Origin, Wire};
use super::process::Used;
use super::reader::Outcome;
use super::run;
use super::workload::{Scale, Workload, random, sequential, small_files};

/// The first epoch is never cut: what was not read is not there for the second.
const NO_CUT: Duration = Duration::from_secs(600);

/// A workload and how it is mounted.
#[derive(Debug, Clone)]
pub(crate) struct Epoch {
    pub(crate) workload: Arc<Workload>,
    pub(crate) skip_opens: bool,
}

/// A second epoch under one condition.
pub(crate) struct Second {
    pub(crate) workload: Workload,
    /// The local disk under the same condition.
    pub(crate) disk: Outcome,
    /// Where files come from the cache's disk and not by passthrough: a server that does nothing else.
    pub(crate) bare: Option<(Outcome, Used)>,
    pub(crate) outcome: Outcome,
    pub(crate) counts: Counts,
    pub(crate) used: Used,
}

/// The second epochs of R1, R3 and R5; small files in both ways of opening.
pub(crate) fn all(scale: Scale) -> Vec<Epoch> {
    let half = Scale(scale.0 * 2);
    let large = sequential(half).into_iter().next();
    let chunks = random(scale).into_iter().next();
    let listed = small_files(Scale(scale.0 * 4)).into_iter().take(1);
    let small = listed.flat_map(|workload| [(workload.clone(), false), (workload, true)]);
    let passed = large.into_iter().chain(chunks).map(|workload| (workload, false));
    passed
        .chain(small)
        .map(|(workload, skip_opens)| Epoch {
            workload: Arc::new(Workload { announced: false, ..workload }),
            skip_opens,
        })
        .collect()
}

impl Epoch {
    /// Runs the first epoch, and the second under each condition.
    pub(crate) async fn run(&self, dir: &Path, wire: Wire, cut: Duration) -> Result<Vec<Second>> {
        let Epoch { workload, skip_opens } = self;
        let origin = Origin::start(dir, "set", &workload.objects, wire, false)?;
        let (disk, cache) = (dir.join("disk"), dir.join("cache"));
        let (root, objects) = (disk.clone(), workload.objects.clone());
        run::blocking(move || local::write(&root, &objects)).await?;
        let how = How { connections: workload.connections, cache: Some(cache.clone()), skip_opens: *skip_opens };

        let mut mounted = Mounted::millrace(dir, &origin, "set", &how).await?;
        let (first, ..) = run::through(&origin, &mounted, workload, NO_CUT).await?;
        let steps: usize = workload.readers.iter().map(Vec::len).sum();
        ensure!(first.steps == steps as u64, "the first epoch ended early");
        let mut seconds = Vec::new();
        for condition in ["same mount", "after remount, disk warm", "after remount, disk cold"] {
            if condition != "same mount" {
                mounted.unmount().await?;
                let prepare = if condition.ends_with("cold") { local::drop_pages } else { local::take_pages };
                let dirs = [disk.clone(), cache.clone()];
                run::blocking(move || dirs.iter().try_for_each(|dir: &PathBuf| prepare(dir))).await?;
                mounted = Mounted::millrace(dir, &origin, "set", &how).await?;
            }
            let opens = if *skip_opens { "opens skipped" } else { "passthrough" };
            let variant = format!("{} {}: {condition}, {opens}", workload.name, workload.variant);
            let (outcome, counts, used) = run::through(&origin, &mounted, workload, cut).await?;
            let is_served = *skip_opens && condition.ends_with("warm");
            let bare = if is_served { Some(served_bare(&disk, &dir.join("bare"), workload, cut).await?) } else { None };
            let disk = run::on(&disk, workload, cut).await?;
            let workload = Workload { name: "R7", variant, ..Workload::clone(workload) };
            seconds.push(Second { workload, disk, bare, outcome, counts, used });
        }
        mounted.unmount().await?;
        Ok(seconds)
    }
}

/// The files below `disk` through a server that does nothing but read them.
async fn served_bare(disk: &Path, target: &Path, workload: &Arc<Workload>, cut: Duration) -> Result<(Outcome, Used)> {
    let bare = Bare::start(disk, target)?;
    let outcome = run::on(bare.root(), workload, cut).await?;
    Ok((outcome, Used { cpu: Bare::cpu()?, peak: 0 }))
}
