//! Reads through a mount beside the limit of the wire, workload by workload, every byte checked. Needs root and
//! `/dev/fuse`.
//!
//! The store is a process of its own at 15 ms and 100 MB/s a connection; each subject has a fresh mount. Runs come in
//! adjacent pairs with the raw client, so that what else the machine does meets both, and a pair counts only if the
//! raw client reached 0.9 of what the wire gives. Lines of JSON go to `target/bench/results.jsonl`.
//!
//! `make bench FULL=1 PAIRS=1 PEERS=1 ONLY=R1,R3 BACKEND=nfs` passes the words below on.

mod announced;
mod bare;
mod dataset;
mod epochs;
mod local;
mod metadata;
mod mounted;
mod origin;
mod own;
mod process;
mod raw;
mod reader;
mod report;
mod run;
mod servers;
mod workload;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use millrace::sandbox::requirement::{self, Requirement};
use tempfile::TempDir;

use mounted::{How, Mounted, PEERS};
use origin::{Counts, Origin, WIRE, Wire};
use process::Used;
use reader::Outcome;
use report::{Limit, Results, Run};
use workload::{By, Scale, Unit, Workload};

const FOLDER: &str = "set";
/// The share of the wire's limit that the raw client must reach.
const NEAR: f64 = 0.9;

#[derive(Parser)]
struct Words {
    /// 5 pairs of up to 20 s each instead of 3 of 10 s.
    #[arg(long)]
    full: bool,
    /// So many pairs instead.
    #[arg(long)]
    pairs: Option<usize>,
    /// Other clients that are installed, too.
    #[arg(long)]
    peers: bool,
    /// Some workloads alone, as `R1,R3`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A real file server instead of the embedded S3 server.
    #[arg(long)]
    backend: Option<servers::Kind>,
    /// Only stands for the wire before a file server, as the standard input says.
    #[arg(long, hide = true)]
    relay: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let words = Words::parse();
    if words.relay {
        return servers::serve();
    }
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        bail!("this bench needs root and /dev/fuse");
    }
    let (pairs, cut) = if words.full { (5, Duration::from_secs(20)) } else { (3, Duration::from_secs(10)) };
    let pairs = words.pairs.unwrap_or(pairs);
    let named = |name: &str| words.only.is_empty() || words.only.iter().any(|one| one == name);
    let wanted = |one: &Workload| named(one.name);
    let mut subjects = vec!["millrace"];
    if words.peers {
        subjects.extend(PEERS);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench").join("results.jsonl");
    let mut results = Results::create(&file)?;
    if let Some(backend) = words.backend {
        servers::bench(backend, pairs, cut, named, &mut results).await?;
        println!("\n{}", results.table());
        return Ok(());
    }
    for workload in workload::all(Scale(1)).into_iter().filter(wanted) {
        let workload = Arc::new(workload);
        for pair in 1..=pairs {
            // A full page cache has a run pay for what the one before it read.
            fs::write("/proc/sys/vm/drop_caches", "3")?;
            let dir = directory()?;
            let origin = Origin::start(dir.path(), FOLDER, &workload.objects, WIRE, workload.tls)?;
            let pair = Pair { workload: &workload, dir, origin, number: pair, cut, results: &mut results };
            pair.run(&subjects).await?;
        }
    }
    for pair in 1..=pairs {
        if named("R7") {
            second_epochs(pair, cut, &mut results).await?;
        }
        if named("R8") {
            looks(pair, &mut results).await?;
        }
    }
    println!("\n{}", results.table());
    Ok(())
}

/// One pair: the raw client, and then each subject, on a store of their own.
struct Pair<'a> {
    workload: &'a Arc<Workload>,
    dir: TempDir,
    origin: Origin,
    number: usize,
    cut: Duration,
    results: &'a mut Results,
}

impl Pair<'_> {
    async fn run(mut self, subjects: &[&str]) -> Result<()> {
        let connections = if self.workload.unit == Unit::Milliseconds { 1 } else { self.workload.connections };
        let limit = self.raw("raw", connections, None).await?;
        if self.workload.by == By::WholeFile {
            // What a client without foresight reaches with as many readers: one request each at a time.
            self.raw("on-demand", u32::try_from(self.workload.readers.len())?, Some(limit)).await?;
            self.own(limit).await?;
        }
        for subject in subjects {
            self.subject(subject, limit).await?;
        }
        Ok(())
    }

    async fn raw(&mut self, subject: &str, connections: u32, limit: Option<Limit>) -> Result<Limit> {
        let (before, cpu) = (self.origin.counts(), process::own_cpu());
        let client = Arc::new(raw::Http::new(self.origin.access(), FOLDER)?);
        let outcome = raw::run(client, self.workload, connections, self.cut).await?;
        let limit = limit.unwrap_or_else(|| Limit {
            value: report::value(self.workload.unit, &outcome),
            valid: near(self.workload, &outcome, WIRE),
        });
        self.of_this_process(subject, &outcome, before, cpu, limit)?;
        Ok(limit)
    }

    /// What the driver's own client costs without a mount.
    async fn own(&mut self, limit: Limit) -> Result<()> {
        let (before, cpu) = (self.origin.counts(), process::own_cpu());
        let connections = self.workload.connections;
        let client = Arc::new(own::Own::new(&self.origin, FOLDER, connections)?);
        let outcome = raw::run(client, self.workload, connections, self.cut).await?;
        self.of_this_process("own", &outcome, before, cpu, limit)
    }

    /// A row of a client in this process, which had spent `cpu` when the origin had counted `before`.
    fn of_this_process(
        &mut self,
        subject: &str,
        outcome: &Outcome,
        before: Counts,
        cpu: f64,
        limit: Limit,
    ) -> Result<()> {
        let cpu = process::own_cpu() - cpu - outcome.checking;
        let peak = process::used(i32::try_from(std::process::id())?).peak;
        self.add(subject, outcome, self.origin.counts().since(before), Used { cpu, peak }, limit)
    }

    async fn subject(&mut self, subject: &str, limit: Limit) -> Result<()> {
        let (dir, connections) = (self.dir.path(), self.workload.connections);
        let mounted = match subject {
            "millrace" => Some(Mounted::millrace(dir, &self.origin, FOLDER, &How::of(connections)).await?),
            peer => Mounted::peer(dir, &self.origin, peer, FOLDER, connections)?,
        };
        let Some(mounted) = mounted else {
            if self.number == 1 {
                println!("{subject} is not installed: skipped");
            }
            return Ok(());
        };
        let outcome = run::through(&self.origin, &mounted, self.workload, self.cut).await;
        mounted.unmount().await?;
        let (outcome, counts, used) = outcome?;
        self.add(subject, &outcome, counts, used, limit)
    }

    fn add(&mut self, subject: &str, outcome: &Outcome, counts: Counts, used: Used, limit: Limit) -> Result<()> {
        let Limit { value, valid } = limit;
        let run =
            Run { workload: self.workload, subject, outcome, counts, used, limit: value, pair: self.number, valid };
        self.results.add(run.row())
    }
}

/// Whether the raw client was near what such a wire gives.
fn near(workload: &Workload, raw: &Outcome, wire: Wire) -> bool {
    let part = match workload.unit {
        Unit::Milliseconds => return true,
        Unit::FilesPerSecond => raw.bytes / raw.steps.max(1),
        Unit::MegabytesPerSecond => raw::PART,
    };
    raw.bytes as f64 / raw.seconds >= NEAR * wire.limit(workload.connections, part)
}

/// R7: the second epochs of `scale`, each beside the local disk.
async fn second_epochs(pair: usize, cut: Duration, results: &mut Results) -> Result<()> {
    for epoch in epochs::all(Scale(1)) {
        let dir = directory()?;
        for epochs::Second { workload, disk, bare, outcome, counts, used } in epoch.run(dir.path(), WIRE, cut).await? {
            let limit = report::value(workload.unit, &disk);
            let (workload, valid, none) = (&workload, true, (Counts::default(), Used::default()));
            let disk =
                Run { workload, subject: "disk", outcome: &disk, counts: none.0, used: none.1, limit, pair, valid };
            results.add(disk.row())?;
            if let Some((outcome, used)) = bare {
                let (subject, counts) = ("bare", Counts::default());
                let run = Run { workload, subject, outcome: &outcome, counts, used, limit, pair, valid };
                results.add(run.row())?;
            }
            let run = Run { workload, subject: "millrace", outcome: &outcome, counts, used, limit, pair, valid };
            results.add(run.row())?;
        }
    }
    Ok(())
}

/// R8: what looks more than it reads.
async fn looks(pair: usize, results: &mut Results) -> Result<()> {
    let mut all = Vec::new();
    for (skip_opens, on_disk) in [(false, false), (true, false), (true, true)] {
        let (dir, cache) = (directory()?, directory()?);
        let cache = on_disk.then(|| cache.path().to_owned());
        let how = How { skip_opens, cache, ..How::of(32) };
        all.extend(metadata::import(dir.path(), WIRE, Scale(1), &how).await?);
    }
    all.extend(metadata::storm(directory()?.path(), WIRE, Scale(1)).await?);
    all.extend(metadata::volumes(directory()?.path(), WIRE, &[1_000, 10_000, 100_000, 1_000_000]).await?);
    for metadata::Looked { workload, limit, subject, outcome, counts, used } in all {
        let run = Run { workload: &workload, subject, outcome: &outcome, counts, used, limit, pair, valid: true };
        results.add(run.row())?;
    }
    Ok(())
}

fn directory() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("millrace-bench-").tempdir()?;
    // Workers have uids of their own and pass through.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}
