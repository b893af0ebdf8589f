//! Copies out of a mapping, as the kernel turns their page faults into reads: a model of its page cache, of whose misses
//! each reads what is missing of the 4 MiB around it, by at most 1 MiB (`do_sync_mmap_readahead`, Linux 6.18). A copy
//! touches the ends of a piece first, and then all of it forwards or backwards, as memcpy finds better.

use super::*;

const AROUND: u64 = 4 * MIB;
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug)]
enum Way {
    Forwards,
    Backwards,
    /// Each piece in the other way than the one before.
    InTurn,
}

struct Pages(Vec<bool>);

impl Pages {
    fn of(size: u64) -> Mutex<Pages> {
        Mutex::new(Pages(vec![false; size.div_ceil(PAGE) as usize]))
    }

    /// What a touch of `page` has read.
    fn touch(&mut self, page: u64, size: u64) -> Vec<Range<u64>> {
        if self.0[page as usize] {
            return Vec::new();
        }
        let pages = self.0.len() as u64;
        let first = page.saturating_sub(AROUND / PAGE / 2);
        let mut reads: Vec<Range<u64>> = Vec::new();
        for at in first..(first + AROUND / PAGE).min(pages) {
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

/// In the test's own time, which only the store spends: 15 ms to the first byte, 100 MB/s a connection.
#[tokio::test(start_paused = true)]
async fn a_mapping_copied_in_order_comes_as_fast_as_a_file_read_in_order() {
    const SIZE: u64 = 256 * MIB;
    let raw = SIZE as f64 / (8.0 * (8 << 20) as f64 / (0.015 + (8 << 20) as f64 / 100_000_000.0));
    for way in [Way::Backwards, Way::Forwards, Way::InTurn] {
        // A piece as long as the window and copied backwards shows late where it begins.
        for (length, least) in [(MIB, 0.85), (16 * MIB, 0.65), (60 * MIB + 12_288, 0.3)] {
            let rig = rig(vec![0; SIZE as usize], 256 * MIB);
            rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
            let begin = Instant::now();
            load(&rig, &Pages::of(SIZE), &pieces(SIZE, length, false), way).await;
            let share = raw / begin.elapsed().as_secs_f64();
            let fetched = rig.store.bytes_asked() as f64 / SIZE as f64;
            assert!(share > least && fetched <= 1.01, "{way:?}, {length}: {share:.2} of raw, fetched {fetched:.3}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_of_a_mapping_in_any_order_are_fetched_once() {
    const SIZE: u64 = 256 * MIB;
    for (way, length) in [(Way::Backwards, 16 * MIB), (Way::Forwards, 16 * MIB), (Way::InTurn, 8 * MIB)] {
        for loaders in [1, 4] {
            for shuffled in [false, true] {
                let rig = rig(vec![0; SIZE as usize], 256 * MIB);
                rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
                let (pages, pieces) = (Pages::of(SIZE), pieces(SIZE, length, shuffled));
                futures::future::join_all((0..loaders).map(|_| load(&rig, &pages, &pieces, way))).await;
                let fetched = rig.store.bytes_asked() as f64 / SIZE as f64;
                assert!(fetched <= 1.02, "{way:?}, {length}, {loaders}, {shuffled}: {fetched:.3}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_copied_out_of_a_mapping_is_right() {
    for way in [Way::Backwards, Way::Forwards, Way::InTurn] {
        for shuffled in [false, true] {
            // The last page is not whole.
            let size = 32 * MIB - 777;
            let rig = rig(pattern(size), 64 * MIB);
            let (pages, pieces) = (Pages::of(size), pieces(size, 8 * MIB + 1000, shuffled));
            futures::future::join_all((0..3).map(|_| load(&rig, &pages, &pieces, way))).await;
            assert!(pages.lock().unwrap().0.iter().all(|there| *there));
        }
    }
}
