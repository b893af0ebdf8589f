//! What real programs read of one file, as strace showed it on a local disk: offset and length of each read, one a line.
//!
//! GNU tar extracting and listing, Python's tarfile and zipfile (its members in random order) over an archive of twelve
//! files of 12 to 110 KB and one of 3 MB; `git index-pack` over a pack of the same files.
//!
//! `kernel-*` are the READs that Linux 6.18 sent to a FUSE server 15 ms away for a file of 128 MiB, in the order in which
//! they came: 8 interleaved streams of 128 KiB; pieces of 16 MiB copied out of a mapping (which memcpy does backwards), in
//! order, by four threads at once, and by four in a shuffled order; 40 random pieces of 1 MiB. The kernel's read-ahead was 4 MiB, or 1 MiB
//! where the name says narrow or four, and 128 KiB where it says small.

use super::*;

fn reads(trace: &str) -> Vec<Range<u64>> {
    let read = |line: &str| {
        let (offset, length) = line.split_once(' ').unwrap();
        let offset: u64 = offset.parse().unwrap();
        offset..offset + length.parse::<u64>().unwrap()
    };
    trace.lines().map(read).collect()
}

/// Bytes of the pages that `reads` touch, each once.
fn touched(reads: &[Range<u64>]) -> u64 {
    let pages = reads.iter().flat_map(|read| read.start / 4096..read.end.div_ceil(4096));
    pages.collect::<std::collections::HashSet<_>>().len() as u64 * 4096
}

#[tokio::test(start_paused = true)]
async fn real_programs_are_run_ahead_of_and_little_is_fetched_in_vain() {
    // Fetched over touched at most, and requests at most.
    for (name, trace, over, requests) in [
        ("tar", include_str!("../traces/tar.txt"), 1.01, 20),
        ("tar-list", include_str!("../traces/tar-list.txt"), 1.5, 15),
        ("python-tarfile", include_str!("../traces/python-tarfile.txt"), 1.1, 20),
        ("python-zipfile", include_str!("../traces/python-zipfile.txt"), 1.5, 40),
        ("git-index-pack", include_str!("../traces/git-index-pack.txt"), 1.1, 40),
    ] {
        // Each of them read the last byte, or nearly.
        let size = reads(trace).iter().map(|read| read.end).max().unwrap();
        replay(name, trace, rig(pattern(size), 256 * MIB), over, requests).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_makes_of_programs_is_fetched_once() {
    for (name, trace, around, over, requests) in [
        ("streams", include_str!("../traces/kernel-streams.txt"), 4 * MIB, 1.02, 300),
        ("mmap-in-order", include_str!("../traces/kernel-mmap-in-order.txt"), 4 * MIB, 1.02, 250),
        ("mmap-shuffled", include_str!("../traces/kernel-mmap-shuffled.txt"), 4 * MIB, 1.02, 250),
        ("mmap-in-order-narrow", include_str!("../traces/kernel-mmap-in-order-narrow.txt"), MIB, 1.03, 250),
        ("mmap-four-at-once", include_str!("../traces/kernel-mmap-four-at-once.txt"), MIB, 1.03, 250),
        ("mmap-shuffled-narrow", include_str!("../traces/kernel-mmap-shuffled-narrow.txt"), MIB, 1.03, 250),
        ("chunks", include_str!("../traces/kernel-chunks.txt"), 4 * MIB, 1.15, 80),
        ("chunks-small", include_str!("../traces/kernel-chunks-small.txt"), 128 * KIB, 1.1, 300),
    ] {
        replay(name, trace, beside(vec![0; 128 << 20], around), over, requests).await;
    }
}

async fn replay(name: &str, trace: &str, rig: Rig, over: f64, requests: u64) {
    rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let reads = reads(trace);
    for read in &reads {
        rig.check(read.clone()).await;
    }
    let (asked, calls) = (rig.store.bytes_asked() as f64 / touched(&reads) as f64, rig.store.calls(Op::Read));
    assert!(asked <= over && calls <= requests, "{name}: {asked:.3} of {over}, {calls} of {requests}");
}
