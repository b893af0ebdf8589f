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
#[path = "../benches/read/servers/relay.rs"]
mod relay;
mod replies;
#[path = "../benches/read/run.rs"]
mod run;
#[allow(dead_code, reason = "units are for the bench")]
#[path = "../benches/read/workload.rs"]
mod workload;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace::sandbox::computed;
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
    let Some(imports) = alone(async |dir| metadata::import(dir, WIRE, SCALE, &How::of(32)).await) else { return };
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
    // The names of one directory are told by a listing after a few, though nobody lists it.
    assert!(small.counts.heads + small.counts.lists <= 20, "{:?}", small.counts);
    let asked = |counts: Counts| counts.gets + counts.heads + counts.lists;
    assert!(asked(large.counts) <= asked(small.counts) * 2 + 200, "{:?} and {:?}", small.counts, large.counts);
}

#[test]
fn what_stands_for_the_wire_changes_no_byte_and_is_a_round_trip_away() {
    const LENGTH: usize = 3_000_001;
    const DELAY: Duration = Duration::from_millis(20);
    const REQUESTS: u64 = 3;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(to) = listener.local_addr().unwrap() else { panic!("no IPv4 address") };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // No server shall take the client for one on its own machine.
            assert_eq!(stream.peer_addr().unwrap().ip(), Ipv4Addr::new(127, 0, 1, 9));
            let mut request = [0; 9];
            while stream.read_exact(&mut request).is_ok() {
                stream.write_all(&computed::bytes(u64::from(request[8]), 0, LENGTH)).unwrap();
            }
        }
    });
    for requests in [relay::Requests::Records, relay::Requests::Turns] {
        let counters = Arc::new(relay::Counters::default());
        let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 9), 0);
        let pace = relay::Pace { delay: DELAY, bytes_per_second: 200_000_000 };
        let at = relay::listen(&[relay::Link { from, to, requests }], pace, &counters).unwrap();
        let mut client = TcpStream::connect(at[0]).unwrap();
        let mut answer = vec![0; LENGTH];
        for seed in 1..=REQUESTS {
            let begun = Instant::now();
            // A record of five bytes, cut where its length stands where records are told apart.
            let request = [&(1 << 31 | 5_u32).to_be_bytes()[..], &[0, 0, 0, 0, seed as u8]].concat();
            client.write_all(&request[..2]).unwrap();
            if requests == relay::Requests::Records {
                std::thread::sleep(Duration::from_millis(5));
            }
            client.write_all(&request[2..]).unwrap();
            client.read_exact(&mut answer).unwrap();
            assert!(computed::matches(seed, 0, &answer) && begun.elapsed() >= DELAY);
        }
        assert_eq!(counters.bytes.load(Ordering::Relaxed), REQUESTS * LENGTH as u64);
        assert_eq!(counters.requests.load(Ordering::Relaxed), REQUESTS);
    }
}
