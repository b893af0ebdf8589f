//! The workloads: what a program asks of a directory, as a list of steps that any subject carries out.
//!
//! A step is one read of one object. What differs between programs is their order, their size, how many go on at once
//! and whether by `read` or by a mapping, so that is all a workload says; the raw client gets the same bytes by its
//! own requests.

use super::dataset::{Chance, Object, equal, small};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// One read: `length` bytes of an object from `at` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of the object.
    pub(crate) object: usize,
    pub(crate) at: u64,
    pub(crate) length: u64,
}

/// How bytes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// `pread` on a file that stays open until the reader turns to another one it has not open.
    Read,
    /// A copy out of a mapping of the file.
    Mapping,
    /// Open, read to the end, close.
    WholeFile,
    /// `lstat` of what a folder was just listed to have, and nothing read.
    Stat,
}

/// What is counted as the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    MegabytesPerSecond,
    FilesPerSecond,
    /// Median time of one step.
    Milliseconds,
}

/// Reads of one kind, by some readers at once.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) variant: String,
    pub(crate) objects: Vec<Object>,
    /// What each reader does, one after the other.
    pub(crate) readers: Vec<Vec<Step>>,
    pub(crate) by: By,
    pub(crate) unit: Unit,
    /// Requests at once, of the mount and of the raw client alike.
    pub(crate) connections: u32,
    /// Folders are listed before the clock starts.
    pub(crate) listed: bool,
    /// The order is announced to a mount that takes it.
    pub(crate) announced: bool,
    pub(crate) tls: bool,
    /// Without the wire's delay and bound.
    pub(crate) direct: bool,
}

impl Workload {
    pub(crate) fn new(
        name: &'static str,
        variant: impl Into<String>,
        objects: Vec<Object>,
        readers: Vec<Vec<Step>>,
    ) -> Workload {
        Workload {
            name,
            variant: variant.into(),
            objects,
            readers,
            by: By::Read,
            unit: Unit::MegabytesPerSecond,
            connections: 8,
            listed: false,
            announced: false,
            tls: false,
            direct: false,
        }
    }
}

/// The bytes of an object in order, by reads of `size`.
fn in_order(object: usize, length: u64, size: u64) -> Vec<Step> {
    (0..length).step_by(size as usize).map(|at| Step { object, at, length: size.min(length - at) }).collect()
}

/// Steps of several sequences, one of each in turn.
fn interleaved(sequences: &[Vec<Step>]) -> Vec<Step> {
    let most = sequences.iter().map(Vec::len).max().unwrap_or_default();
    (0..most).flat_map(|at| sequences.iter().filter_map(move |one| one.get(at).copied())).collect()
}

/// Deals whole sequences out to `readers`.
fn dealt(sequences: Vec<Vec<Step>>, readers: usize) -> Vec<Vec<Step>> {
    let mut dealt = vec![Vec::new(); readers];
    for (at, sequence) in sequences.into_iter().enumerate() {
        dealt[at % readers].extend(sequence);
    }
    dealt
}

/// How large a run is: everything is divided by it. 1 for figures, more where only counters matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale(pub(crate) u64);

/// R1: cold sequential reads, of one large file and of many by 4 readers in random order.
pub(crate) fn sequential(scale: Scale) -> Vec<Workload> {
    let mut all = Vec::new();
    let large = equal("large", 1, 4 * GIB / scale.0);
    let parts = equal("part", (64 / scale.0).max(4), 64 * MIB);
    for size in [MIB, 128 * KIB] {
        let kib = size / KIB;
        let reader = in_order(0, large[0].size, size);
        all.push(Workload::new("R1", format!("one file, {kib} KiB"), large.clone(), vec![reader]));
        let mut order: Vec<_> = (0..parts.len()).map(|at| in_order(at, parts[at].size, size)).collect();
        Chance(1).shuffle(&mut order);
        all.push(Workload::new("R1", format!("{} files, {kib} KiB", parts.len()), parts.clone(), dealt(order, 4)));
    }
    let first = all[0].clone();
    all.push(Workload { connections: 32, variant: "one file, 32 connections".into(), ..first.clone() });
    all.push(Workload { tls: true, variant: "one file, TLS".into(), ..first });
    all
}

/// R2: 8 streams of one program, in 8 files and in one.
pub(crate) fn streams(scale: Scale) -> Vec<Workload> {
    let record = 128 * KIB;
    let files = equal("file", 8, 256 * MIB / scale.0);
    let of_files: Vec<_> = (0..8).map(|at| in_order(at, files[at].size, record)).collect();
    let one = equal("one", 1, 2 * GIB / scale.0);
    let each = one[0].size / 8;
    let shift =
        |at: u64| in_order(0, each, record).into_iter().map(move |step| Step { at: step.at + at * each, ..step });
    let in_one: Vec<Vec<Step>> = (0..8).map(|at| shift(at).collect()).collect();
    vec![
        Workload::new("R2", "8 files", files, vec![interleaved(&of_files)]),
        Workload::new("R2", "8 streams in one file", one, vec![interleaved(&in_one)]),
    ]
}

/// R3: many small files, in listed order and shuffled.
pub(crate) fn small_files(scale: Scale) -> Vec<Workload> {
    let objects = small((20 / scale.0).max(1));
    let mut all = Vec::new();
    for order in ["listed", "shuffled, announced", "shuffled"] {
        for readers in [1, 8] {
            let whole = |at: usize| vec![Step { object: at, at: 0, length: objects[at].size }];
            let mut steps: Vec<_> = (0..objects.len()).map(whole).collect();
            if order != "listed" {
                Chance(3).shuffle(&mut steps);
            }
            let variant = format!("{order}, {readers} reader{}", if readers == 1 { "" } else { "s" });
            all.push(Workload {
                by: By::WholeFile,
                unit: Unit::FilesPerSecond,
                connections: 64,
                listed: true,
                announced: order == "shuffled, announced",
                ..Workload::new("R3", variant, objects.clone(), dealt(steps, readers))
            });
        }
    }
    all
}

/// R4: tar shards, one after the other, by reads of 4 to 10 KiB.
pub(crate) fn shards(scale: Scale) -> Vec<Workload> {
    let objects = equal("shard", (16 / scale.0).max(2), 128 * MIB / scale.0.min(8));
    let mut chance = Chance(4);
    let mut steps = Vec::new();
    for (object, Object { size, .. }) in objects.iter().enumerate() {
        let mut at = 0;
        while at < *size {
            let length = (4 * KIB + chance.below(6 * KIB)).min(size - at);
            steps.push(Step { object, at, length });
            at += length;
        }
    }
    vec![Workload::new("R4", "16 shards", objects, vec![steps])]
}

/// R5: a Parquet file's footer and column chunks, and random reads of two sizes.
pub(crate) fn random(scale: Scale) -> Vec<Workload> {
    let table = equal("table", 1, GIB / scale.0.min(8));
    let size = table[0].size;
    let mut all = Vec::new();
    let footer = Step { object: 0, at: size - 64 * KIB, length: 64 * KIB };
    let mut chunks: Vec<_> = in_order(0, size - MIB, MIB);
    Chance(5).shuffle(&mut chunks);
    chunks.truncate((512 / scale.0) as usize);
    let steps = std::iter::once(footer).chain(chunks).collect();
    all.push(("column chunks", steps));
    for (variant, length) in [("4 KiB", 4 * KIB), ("64 KiB", 64 * KIB)] {
        let mut chance = Chance(length);
        let at = |chance: &mut Chance| chance.below(size / length) * length;
        let steps = (0..512 / scale.0).map(|_| Step { object: 0, at: at(&mut chance), length }).collect();
        all.push((variant, steps));
    }
    let workload = |(variant, steps): (&str, Vec<Step>)| Workload {
        unit: Unit::Milliseconds,
        ..Workload::new("R5", variant, table.clone(), vec![steps])
    };
    all.into_iter().map(workload).collect()
}

/// R6: tensors of 16 MiB copied out of a mapping, in order and shuffled, by 1 and 4 loaders of all of it.
pub(crate) fn mapped(scale: Scale) -> Vec<Workload> {
    let model = equal("model", 1, 2 * GIB / scale.0);
    let mut all = Vec::new();
    for (order, loaders) in [("in order", 1), ("in order", 4), ("shuffled", 1), ("shuffled", 4)] {
        let mut tensors = in_order(0, model[0].size, 16 * MIB);
        if order == "shuffled" {
            Chance(6).shuffle(&mut tensors);
        }
        let variant = format!("{order}, {loaders} loader{}", if loaders == 1 { "" } else { "s" });
        all.push(Workload { by: By::Mapping, ..Workload::new("R6", variant, model.clone(), vec![tensors; loaders]) });
    }
    all
}

/// What is read of a real file server, over `connections`, small files so many `at_once`: R1, R3 and R5 of what fits into
/// its memory.
pub(crate) fn of_a_file_server(connections: u32, at_once: u32) -> Vec<Workload> {
    let usual = sequential(Scale(4)).into_iter().filter(|one| !one.tls && one.connections == 8);
    let mut all: Vec<_> = usual.map(|one| Workload { connections, ..one }).collect();
    let direct = all.iter().filter(|one| one.variant.ends_with("1024 KiB"));
    let direct =
        direct.map(|one| Workload { direct: true, variant: format!("{}, uncapped", one.variant), ..one.clone() });
    all.extend(direct.collect::<Vec<_>>());
    let small = small_files(Scale(10)).into_iter().filter(|one| one.announced || one.variant.starts_with("listed"));
    all.extend(small.map(|one| Workload { connections: at_once, ..one }));
    all.extend(random(Scale(2)).into_iter().map(|one| Workload { connections, ..one }));
    all
}

/// All of them, in their order.
pub(crate) fn all(scale: Scale) -> Vec<Workload> {
    [sequential, streams, small_files, shards, random, mapped].into_iter().flat_map(|make| make(scale)).collect()
}
