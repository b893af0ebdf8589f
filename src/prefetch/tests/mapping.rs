//! Copies out of a mapping, as the kernel turns their page faults into reads: a model of its page cache, of whose misses
//! each reads what is missing of so much around it as its read-ahead is, by at most 1 MiB (`do_sync_mmap_readahead`, Linux 6.18). A copy
//! touches the ends of a piece first, and then all of it forwards or backwards, as memcpy finds better.

use super::*;

/// The default of a volume, and much.
const AROUND: [u64; 2] = [MIB, 4 * MIB];
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug)]
enum Way {
    Forwards,
    Backwards,
    /// Each piece in the other way than the one before.
    InTurn,
}

const WAYS: [Way; 3] = [Way::Backwards, Way::Forwards, Way::InTurn];

struct Pages(Vec<bool>, u64);

impl Pages {
    fn of(size: u64, around: u64) -> Mutex<Pages> {
        Mutex::new(Pages(vec![false; size.div_ceil(PAGE) as usize], around / PAGE))
    }

    /// What a touch of `page` has read.
    fn touch(&mut self, page: u64, size: u64) -> Vec<Range<u64>> {
        if self.0[page as usize] {
            return Vec::new();
        }
        let pages = self.0.len() as u64;
        let first = page.saturating_sub(self.1 / 2);
        let mut reads: Vec<Range<u64>> = Vec::new();
        for at in first..(first + self.1).min(pages) {
            if std::mem::replace(&mut self.0[at as usize], true) {
                continue;
            }
            let read = at * PAGE..((at + 1) * PAGE).min(size);
            match reads.last_mut() {
                Some(last) if last.end == read.start && read.end - last.start <= MIB => last.end = read.end,
                _ => reads.push(read),
            }
        }
        reads
    }
}

/// The pages of a piece as a copy touches them.
fn touched(piece: &Range<u64>, backwards: bool) -> Vec<u64> {
    let (first, last) = (piece.start / PAGE, (piece.end - 1) / PAGE);
    let between: Vec<u64> = if backwards { (first..last).rev().collect() } else { (first..last).collect() };
    [first, last].into_iter().chain(between).collect()
}

async fn load(rig: &Rig, pages: &Mutex<Pages>, pieces: &[Range<u64>], way: Way) {
    for (number, piece) in pieces.iter().enumerate() {
        let backwards = match way {
            Way::Forwards => false,
            Way::Backwards => true,
            Way::InTurn => number % 2 == 0,
        };
        for page in touched(piece, backwards) {
            let reads = pages.lock().unwrap().touch(page, rig.content.len() as u64);
            // The kernel has them all on their way.
            futures::future::join_all(reads.into_iter().map(|read| rig.check(read))).await;
        }
    }
}

fn pieces(size: u64, length: u64, shuffled: bool) -> Vec<Range<u64>> {
    let mut pieces: Vec<_> = (0..size).step_by(length as usize).map(|at| at..(at + length).min(size)).collect();
    if shuffled {
        pieces.sort_by_key(|piece| (piece.start / length * 7919 + 500) % 1009);
    }
    pieces
}

/// How fast, beside 8 connections that are never idle, and how many times each byte was fetched. In the test's own time,
/// which only the store spends: 15 ms to the first byte, 100 MB/s a connection.
async fn measure(size: u64, around: u64, pieces: &[Range<u64>], way: Way, loaders: u64) -> (f64, f64) {
    let raw = size as f64 / (8.0 * (8 << 20) as f64 / (0.015 + (8 << 20) as f64 / 100_000_000.0));
    let rig = beside(vec![0; size as usize], around);
    rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let (begin, pages) = (Instant::now(), Pages::of(size, around));
    futures::future::join_all((0..loaders).map(|_| load(&rig, &pages, pieces, way))).await;
    (raw / begin.elapsed().as_secs_f64(), rig.store.bytes_asked() as f64 / size as f64)
}

#[tokio::test(start_paused = true)]
async fn a_mapping_copied_in_order_comes_as_fast_as_a_file_read_in_order() {
    const SIZE: u64 = 256 * MIB;
    for around in AROUND {
        for way in WAYS {
            // A piece as long as the window and copied backwards shows late where it begins.
            for (length, least) in [(MIB, 0.85), (16 * MIB, 0.65), (60 * MIB + 12_288, 0.3)] {
                let (share, fetched) = measure(SIZE, around, &pieces(SIZE, length, false), way, 1).await;
                let said = format!("{around}, {way:?}, {length}: {share:.2} of raw, fetched {fetched:.3}");
                assert!(share > least && fetched <= 1.02, "{said}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_of_a_mapping_in_any_order_are_fetched_once() {
    const SIZE: u64 = 256 * MIB;
    for around in AROUND {
        for (way, length) in [(Way::Backwards, 16 * MIB), (Way::Forwards, 16 * MIB), (Way::InTurn, 8 * MIB)] {
            for loaders in [1, 4] {
                for shuffled in [false, true] {
                    let pieces = pieces(SIZE, length, shuffled);
                    let (_, fetched) = measure(SIZE, around, &pieces, way, loaders).await;
                    assert!(fetched <= 1.03, "{around}, {way:?}, {length}, {loaders}, {shuffled}: {fetched:.3}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_copied_out_of_a_mapping_is_right() {
    for (around, way) in AROUND.into_iter().flat_map(|around| WAYS.map(|way| (around, way))) {
        for shuffled in [false, true] {
            // The last page is not whole.
            let size = 32 * MIB - 777;
            let rig = rig(pattern(size), 64 * MIB);
            let (pages, pieces) = (Pages::of(size, around), pieces(size, 8 * MIB + 1000, shuffled));
            futures::future::join_all((0..3).map(|_| load(&rig, &pages, &pieces, way))).await;
            assert!(pages.lock().unwrap().0.iter().all(|there| *there));
        }
    }
}
