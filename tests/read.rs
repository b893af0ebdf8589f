//! The bench's workloads, small, through a real mount: what is asked of the store and what memory it takes. Never how
//! fast.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../benches/read/announced.rs"]
mod announced;
#[path = "../benches/read/dataset.rs"]
mod dataset;
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
#[allow(dead_code, reason = "units are for the bench")]
#[path = "../benches/read/workload.rs"]
mod workload;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use millrace::sandbox::requirement::{self, Requirement};

use mounted::Mounted;
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
    let dir = tempfile::Builder::new().prefix("millrace-read-").tempdir().unwrap();
    // Workers have uids of their own and pass through.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let origin = Origin::start(dir.path(), "set", &workload.objects, WIRE, false).unwrap();
    let mounted = Mounted::millrace(dir.path(), &origin, "set", workload.connections).await.unwrap();
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
