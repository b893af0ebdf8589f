//! The bench's workloads, small, through a real mount: what is asked of the store and what memory it takes. Never how
//! fast.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../benches/read/announced.rs"]
mod announced;
#[allow(dead_code, reason = "processor time is for the bench")]
#[path = "../benches/read/bare.rs"]
mod bare;
#[path = "../benches/read/dataset.rs"]
mod dataset;
#[allow(dead_code, reason = "times are for the bench")]
#[path = "../benches/read/epochs.rs"]
mod epochs;
#[path = "../benches/read/local.rs"]
mod local;
#[allow(dead_code, reason = "figures are for the bench")]
#[path = "../benches/read/metadata.rs"]
mod metadata;
#[allow(dead_code, reason = "peers are for the bench")]
#[path = "../benches/read/mounted.rs"]
mod mounted;
#[allow(dead_code, reason = "limits of the wire are for the bench")]
#[path = "../benches/read/origin.rs"]
mod origin;
#[allow(dead_code, reason = "processor time is for the bench")]
#[path = "../benches/read/process.rs"]
mod process;
#[allow(dead_code, reason = "times are for the bench")]
#[path = "../benches/read/reader.rs"]
mod reader;
mod replies;
#[path = "../benches/read/run.rs"]
mod run;
#[allow(dead_code, reason = "units are for the bench")]
#[path = "../benches/read/workload.rs"]
mod workload;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use millrace::sandbox::requirement::{self, Requirement};

use mounted::{How, Mounted};
use origin::{Counts, Origin, Wire};
use workload::{Scale, Workload};

/// Small enough for seconds, large enough for windows to open.
const SCALE: Scale = Scale(16);
/// Quick, but with enough latency that read-ahead matters.
const WIRE: Wire = Wire { first_byte_ms: 3, bytes_per_second: 400_000_000 };
/// The default budget of a worker, and what a process takes beside it.
const MOST_MEMORY: u64 = (256 + 64) << 20;
const NO_CUT: Duration = Duration::from_secs(300);
/// What may have been fetched ahead of a reader when he stops: in runs as small as these it counts.
const AHEAD: u64 = 16 << 20;
/// Each run has the machine to itself, and a worker is known by being the only new child.
static TURN: Mutex<()> = Mutex::new(());

struct Seen {
    counts: Counts,
    bytes: u64,
    files: u64,
}

impl Seen {
    fn fetched_per_read(&self) -> f64 {
        self.counts.bytes as f64 / self.bytes as f64
    }
}

async fn seen(workload: Workload) -> Seen {
    replies::watch();
    let dir = tempfile::Builder::new().prefix("millrace-read-").tempdir().unwrap();
    // Workers have uids of their own and pass through.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let origin = Origin::start(dir.path(), "set", &workload.objects, WIRE, false).unwrap();
    let mounted = Mounted::millrace(dir.path(), &origin, "set", &How::of(workload.connections)).await.unwrap();
    let root = mounted.root().to_owned();
    let before = origin.counts();
    let outcome = tokio::task::spawn_blocking(move || {
        reader::prepare(&root, &workload)?;
        reader::run(&root, &workload, NO_CUT)
    })
    .await
    .unwrap();
    let peak = process::used(mounted.pid()).peak;
    let counts = origin.counts().since(before);
    mounted.unmount().await.unwrap();
    replies::assert_none_refused();
    let outcome = outcome.unwrap();
    assert!(peak <= MOST_MEMORY, "the worker took {peak} bytes");
    Seen { counts, bytes: outcome.bytes, files: outcome.steps }
}

/// Runs the workloads one after the other.
fn each(workloads: Vec<Workload>, check: impl Fn(&str, &Seen)) {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for workload in workloads {
        let name = format!("{}, {}", workload.name, workload.variant);
        check(&name, &runtime.block_on(seen(workload)));
    }
}

fn fetched_once(name: &str, seen: &Seen) {
    let most = seen.bytes + seen.bytes / 50 + AHEAD;
    assert!(seen.counts.bytes <= most, "{name}: {:.3} bytes fetched a byte read", seen.fetched_per_read());
}

#[test]
fn sequential_reads_fetch_each_byte_once() {
    each(workload::sequential(SCALE), fetched_once);
}

#[test]
fn small_reads_of_shards_fetch_each_byte_once() {
    each(workload::shards(SCALE), fetched_once);
}

#[test]
fn interleaved_streams_fetch_each_byte_once() {
    each(workload::streams(SCALE), fetched_once);
}

#[test]
fn mappings_in_any_order_by_several_loaders_fetch_each_byte_once() {
    each(workload::mapped(SCALE), fetched_once);
}

#[test]
fn random_reads_fetch_what_was_asked() {
    // Where the first chunk is read the kernel itself reads on; in so few chunks that counts.
    let workloads =
        workload::random(SCALE).into_iter().filter(|workload| workload.variant != "column chunks").collect();
    each(workloads, |name, seen| {
        assert!(seen.fetched_per_read() <= 1.1, "{name}: {:.3} bytes fetched a byte read", seen.fetched_per_read());
    });
}

#[test]
fn a_small_file_costs_one_get_in_any_order() {
    each(workload::small_files(SCALE), |name, seen| {
        let Counts { gets, heads, lists, .. } = seen.counts;
        // Of an order that nobody knows, some files follow each other by chance.
        let most = if name.contains("shuffled") && !name.contains("announced") { 1.05 } else { 1.02 };
        assert!(gets as f64 <= seen.files as f64 * most, "{name}: {gets} GETs for {} files", seen.files);
        assert!((heads + lists) as f64 <= seen.files as f64 * 0.05, "{name}: {heads} HEADs and {lists} LISTs");
        assert!(seen.fetched_per_read() <= most, "{name}: {:.3} bytes fetched a byte read", seen.fetched_per_read());
    });
}

/// Runs what needs a directory of its own, with the machine to itself.
fn alone<T>(run: impl AsyncFnOnce(&std::path::Path) -> anyhow::Result<T>) -> Option<T> {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        return None;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    replies::watch();
    let dir = tempfile::Builder::new().prefix("millrace-read-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let outcome = tokio::runtime::Runtime::new().unwrap().block_on(run(dir.path())).unwrap();
    replies::assert_none_refused();
    Some(outcome)
}

#[test]
fn a_second_epoch_asks_the_store_for_no_data() {
    for epoch in epochs::all(Scale(2 * SCALE.0)) {
        let Some(seconds) = alone(async |dir| epoch.run(dir, WIRE, NO_CUT).await) else { return };
        assert_eq!(seconds.len(), 3);
        for epochs::Second { workload, disk, bare, outcome, counts, used } in seconds {
            assert_eq!(outcome.bytes, disk.bytes, "{}", workload.variant);
            assert!(bare.is_none_or(|(bare, _)| bare.bytes == disk.bytes), "{}", workload.variant);
            // Of a file read in pieces the kernel, where it has dropped some, reads more around them than was read before.
            let most = if workload.variant.contains("chunks") { outcome.bytes / 5 } else { 0 };
            assert!(counts.bytes <= most && (most > 0 || counts.gets == 0), "{}: {counts:?}", workload.variant);
            assert!(used.peak <= MOST_MEMORY, "{}: the worker took {} bytes", workload.variant, used.peak);
        }
    }
}

#[test]
fn a_second_look_asks_the_store_for_nothing() {
    let Some(imports) = alone(async |dir| metadata::import(dir, WIRE, SCALE).await) else { return };
    let [first, second, ..] = &imports[..] else { panic!("there are three") };
    assert!(first.counts.gets > 0 && first.outcome.bytes == second.outcome.bytes);
    // Where memory is taken back from whoever did not use it for a while, the kernel drops pages that it was given.
    assert!(second.counts.gets <= first.counts.gets / 2, "{:?} after {:?}", second.counts, first.counts);
    assert_eq!(second.counts.lists, 0);
    let Some(storms) = alone(async |dir| metadata::storm(dir, WIRE, SCALE).await) else { return };
    let [first, second] = &storms[..] else { panic!("there are two") };
    let Counts { gets, heads, lists, .. } = first.counts;
    // Three folders of a thousand, each found and then listed; the right to read is proved now and then.
    assert!(gets == 0 && lists <= 6 && heads <= 10, "{:?}", first.counts);
    // The kernel may have dropped what it kept of one of them.
    assert!(second.counts.gets == 0 && second.counts.lists <= 1 && second.counts.heads <= 10, "{:?}", second.counts);
}

#[test]
fn a_large_volume_costs_as_little_as_a_small_one() {
    let Some(volumes) = alone(async |dir| metadata::volumes(dir, WIRE, &[1_000, 50_000]).await) else { return };
    let [small, large] = &volumes[..] else { panic!("there are two") };
    assert!(large.used.peak <= small.used.peak + (16 << 20), "{} and {}", small.used.peak, large.used.peak);
    let asked = |counts: Counts| counts.gets + counts.heads + counts.lists;
    assert!(asked(large.counts) <= asked(small.counts) * 2 + 200, "{:?} and {:?}", small.counts, large.counts);
}
