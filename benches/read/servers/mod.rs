//! R1, R3 and R5 on a real file server, NFS or HDFS, behind a wire of a millisecond and 100 MB/s a connection.
//!
//! The server holds everything in memory and stays for all pairs. Each pair is the raw client, for small files one
//! without foresight too, other programs that are installed, and a fresh mount; the limit is the best of the others.

mod hdfs;
mod nfs;
mod peers;
mod relay;
mod wire;

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use clap::ValueEnum;

use crate::dataset::Object;
use crate::mounted::{How, Mounted, Source, Volume};
use crate::origin::{Counts, Wire};
use crate::process::{self, Used};
use crate::raw::{self, Client};
use crate::reader::Outcome;
use crate::report::{self, Limit, Results, Run};
use crate::workload::{By, Unit, Workload};
use crate::{directory, near, run};

use peers::Peer;
use relay::Pace;
use wire::Relay;
pub(crate) use wire::serve;

/// The wire of all figures but the direct ones.
const WIRE: Wire = Wire { first_byte_ms: 1, bytes_per_second: 100_000_000 };
const PACE: Pace = Pace { delay: Duration::from_millis(WIRE.first_byte_ms), bytes_per_second: WIRE.bytes_per_second };

/// What of it is wanted: of the best other client with the same connections, over the wire and without it; times one
/// reader without foresight; bytes fetched over bytes read.
const WANTED: (f64, f64, f64, f64) = (0.9, 0.5, 5.0, 1.1);

/// A file server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Nfs,
    Hdfs,
}

/// What lies in a folder.
#[derive(Debug, Clone)]
struct Folder {
    name: &'static str,
    objects: Vec<Object>,
}

/// A running server, and ways to read it.
#[async_trait]
trait FileServer: Send + Sync {
    fn relay(&self) -> &Relay;

    fn workloads(&self) -> Vec<Workload>;

    /// Requests of the raw client at once.
    fn at_once(&self, workload: &Workload) -> u32;

    async fn lay_out(&self, folder: &Folder) -> Result<()>;

    fn volume(&self, folder: &str, connections: u32, direct: bool) -> Result<Volume>;

    /// The library without a mount; without foresight each file is looked at before it is read.
    async fn client(&self, workload: &Workload, foresight: bool) -> Result<Arc<dyn Client>>;

    /// Other programs, for reads of whole large files.
    fn peers(&self, workload: &Workload) -> Vec<Peer>;
}

/// Runs the workloads that are `wanted`, so many pairs of each.
pub(crate) async fn bench(
    kind: Kind,
    pairs: usize,
    cut: Duration,
    wanted: impl Fn(&str) -> bool,
    results: &mut Results,
) -> Result<()> {
    let server: Option<Box<dyn FileServer>> = match kind {
        Kind::Nfs => nfs::Filer::start().await?.map(|server| Box::new(server) as _),
        Kind::Hdfs => hdfs::Lake::start().await?.map(|server| Box::new(server) as _),
    };
    let Some(server) = server else { bail!("the server is not here: `make tools` provides it") };
    let workloads: Vec<_> = server.workloads().into_iter().filter(|one| wanted(one.name)).map(Arc::new).collect();
    for folder in folders(&workloads) {
        server.lay_out(&folder).await?;
    }
    for workload in &workloads {
        for number in 1..=pairs {
            // A full page cache has a run pay for what the one before it read.
            fs::write("/proc/sys/vm/drop_caches", "3")?;
            Pair { server: &*server, workload, number, cut, results }.run().await?;
        }
    }
    println!();
    for workload in &workloads {
        if let Some(line) = judged(workload, results) {
            println!("{line}");
        }
    }
    Ok(())
}

/// What the workloads read, each object once.
fn folders(workloads: &[Arc<Workload>]) -> Vec<Folder> {
    let mut folders: Vec<Folder> = Vec::new();
    let mut seen = HashSet::new();
    for workload in workloads {
        let new = workload.objects.iter().filter(|object| seen.insert((workload.name, object.name.clone())));
        let new: Vec<_> = new.cloned().collect();
        match folders.iter_mut().find(|folder| folder.name == workload.name) {
            Some(folder) => folder.objects.extend(new),
            None => folders.push(Folder { name: workload.name, objects: new }),
        }
    }
    folders
}

/// The server as a workload reads it.
struct Shown<'a> {
    server: &'a dyn FileServer,
    direct: bool,
}

impl Source for Shown<'_> {
    fn counts(&self) -> Result<Counts> {
        self.server.relay().counts()
    }

    fn volume(&self, folder: &str, connections: u32) -> Result<Volume> {
        self.server.volume(folder, connections, self.direct)
    }
}

struct Pair<'a> {
    server: &'a dyn FileServer,
    workload: &'a Arc<Workload>,
    number: usize,
    cut: Duration,
    results: &'a mut Results,
}

impl Pair<'_> {
    async fn run(mut self) -> Result<()> {
        let workload = self.workload;
        let raw = self.raw(true, self.server.at_once(workload)).await?;
        let valid = workload.unit != Unit::MegabytesPerSecond || workload.direct || near(workload, &raw.0, WIRE);
        let mut limit = Limit { value: report::value(workload.unit, &raw.0), valid };
        self.add("raw", &raw, limit)?;
        if workload.by == By::WholeFile {
            let on_demand = self.raw(false, u32::try_from(workload.readers.len())?).await?;
            self.add("on-demand", &on_demand, limit)?;
        }
        if workload.unit == Unit::MegabytesPerSecond {
            for peer in self.server.peers(workload) {
                if let Some(run) = self.peer(&peer)? {
                    limit.value = limit.value.max(report::value(workload.unit, &run.0));
                    self.add(peer.name, &run, limit)?;
                }
            }
        }
        let shown = Shown { server: self.server, direct: workload.direct };
        let dir = directory()?;
        let mounted = Mounted::millrace(dir.path(), &shown, workload.name, &How::of(workload.connections)).await?;
        let outcome = run::through(&shown, &mounted, workload, self.cut).await;
        mounted.unmount().await?;
        self.add("millrace", &outcome?, limit)
    }

    async fn raw(&self, foresight: bool, at_once: u32) -> Result<(Outcome, Counts, Used)> {
        let client = self.server.client(self.workload, foresight).await?;
        let (before, cpu) = (self.server.relay().counts()?, process::own_cpu());
        let outcome = raw::run(client, self.workload, at_once, self.cut).await?;
        let cpu = process::own_cpu() - cpu - outcome.checking;
        let counts = self.server.relay().counts()?.since(before);
        let peak = process::used(i32::try_from(std::process::id())?).peak;
        Ok((outcome, counts, Used { cpu, peak }))
    }

    fn peer(&self, peer: &Peer) -> Result<Option<(Outcome, Counts, Used)>> {
        if peer.program.is_none() {
            if self.number == 1 {
                println!("{} is not installed: skipped", peer.name);
            }
            return Ok(None);
        }
        let before = self.server.relay().counts()?;
        let (outcome, used) = tokio::task::block_in_place(|| peers::run(peer, self.workload, self.cut))?;
        Ok(Some((outcome, self.server.relay().counts()?.since(before), used)))
    }

    fn add(&mut self, subject: &str, run: &(Outcome, Counts, Used), limit: Limit) -> Result<()> {
        let (workload, (outcome, counts, used), Limit { value, valid }) = (self.workload, run, limit);
        let (counts, used, pair) = (*counts, *used, self.number);
        self.results.add(Run { workload, subject, outcome, counts, used, limit: value, pair, valid }.row())
    }
}

/// What is wanted of a workload, beside what was reached.
fn judged(workload: &Workload, results: &Results) -> Option<String> {
    let (of_best, of_best_direct, times, fetched) = WANTED;
    let what = format!("{} {}", workload.name, workload.variant);
    let median = |subject, of: fn(&report::Row) -> f64| results.median(workload, subject, of);
    match workload.unit {
        Unit::MegabytesPerSecond => {
            let ratio = median("millrace", |row| row.ratio_to_limit)?;
            let wanted = if workload.direct { of_best_direct } else { of_best };
            Some(format!("{what}: {ratio:.2} of the best other client (wanted {wanted})"))
        }
        Unit::FilesPerSecond if workload.readers.len() == 1 => {
            let ratio = median("millrace", |row| row.value)? / median("on-demand", |row| row.value)?;
            Some(format!("{what}: {ratio:.1} times a reader without foresight (wanted {times})"))
        }
        Unit::FilesPerSecond => None,
        Unit::Milliseconds => {
            let ratio = median("millrace", |row| row.fetched_per_read.unwrap_or_default())?;
            Some(format!("{what}: {ratio:.3} bytes fetched a byte read (wanted {fetched})"))
        }
    }
}
