//! Reads that wait for a connection at the same time: those of one file that lie beside each other become one request.
//! While a connection is free nobody waits, and each has its own: several carry more than one.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{Result, Version};

/// What lies between neighbours and nobody asked for is at most one byte in so many that were asked.
const SPARE: u64 = 20;
/// The longest request that is made of several.
const LONGEST: u64 = 8 << 20;

/// Bytes of a file in order.
pub(super) type Body = BoxStream<'static, Result<Bytes>>;

/// See the module. Cloning shares it.
#[derive(Clone)]
pub(super) struct Together(Arc<Mutex<Queue>>);

struct Queue {
    /// Requests that may still be made.
    free: usize,
    /// The first has waited longest.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    file: Version,
    range: Range<u64>,
    tell: oneshot::Sender<Go>,
}

/// What one who waited does now.
enum Go {
    /// He asks for all of the range, for the others too.
    Ask(Turn, Range<u64>, Vec<Waiting>),
    /// Another asked for him.
    Take(Result<Body>),
}

/// One request, until this is dropped.
struct Turn(Together);

/// Where the bytes go that one of several asked for.
struct Part {
    range: Range<u64>,
    pieces: mpsc::UnboundedSender<Result<Bytes>>,
}

impl Together {
    /// Of a client with so many connections.
    pub(super) fn new(connections: usize) -> Together {
        Together(Arc::new(Mutex::new(Queue { free: connections.max(1), waiting: VecDeque::new() })))
    }

    /// Asks for `range` of `file`, or has another ask for it; `None` where neither came to it `until` then. Dropped, a read
    /// takes nothing from the others.
    pub(super) async fn read(
        &self,
        file: &Version,
        range: Range<u64>,
        until: Instant,
        ask: impl Fn(Range<u64>) -> BoxFuture<'static, Result<Body>>,
    ) -> Option<Result<Body>> {
        loop {
            let go = match self.turn_or_wait(file, &range) {
                Ok(turn) => Go::Ask(turn, range.clone(), Vec::new()),
                Err(told) => match timeout_at(until, told).await.ok()? {
                    Ok(go) => go,
                    // Whoever was to ask for him is gone, or was refused.
                    Err(_) => continue,
                },
            };
            return Some(match go {
                Go::Take(body) => body,
                Go::Ask(turn, all, others) if others.is_empty() => {
                    ask(all.clone()).await.map(|body| turn.until_the_end(&all, body))
                }
                Go::Ask(turn, all, others) => {
                    let (tell, told) = oneshot::channel();
                    let me = Waiting { file: file.clone(), range: range.clone(), tell };
                    let asking = ask(all.clone());
                    tokio::spawn(share(turn, all, asking, [me].into_iter().chain(others).collect()));
                    match told.await {
                        Ok(Go::Take(body)) => body,
                        _ => continue,
                    }
                }
            });
        }
    }

    fn turn_or_wait(&self, file: &Version, range: &Range<u64>) -> std::result::Result<Turn, oneshot::Receiver<Go>> {
        let mut queue = self.lock();
        if queue.free > 0 {
            queue.free -= 1;
            return Ok(Turn(self.clone()));
        }
        let (tell, told) = oneshot::channel();
        queue.waiting.push_back(Waiting { file: file.clone(), range: range.clone(), tell });
        Err(told)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// It ends with the last byte: nobody need drop `body` first.
    fn until_the_end(self, range: &Range<u64>, body: Body) -> Body {
        let (mut turn, mut left) = (Some(self), range.end - range.start);
        let pieces = body.inspect(move |piece| {
            left = piece.as_ref().map_or(0, |piece| left.saturating_sub(piece.len() as u64));
            turn.take_if(|_| left == 0);
        });
        pieces.boxed()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.waiting.retain(|waiting| !waiting.tell.is_closed());
        let Some(first) = queue.waiting.pop_front() else {
            queue.free += 1;
            return;
        };
        let beside = |other: &Waiting| other.file == first.file;
        let ranges = queue.waiting.iter().filter(|other| beside(other)).map(|other| other.range.clone()).collect();
        let all = gathered(&first.range, ranges);
        let within = |other: &Waiting| all.start <= other.range.start && other.range.end <= all.end;
        let (others, waiting) = queue.waiting.drain(..).partition(|other| beside(other) && within(other));
        queue.waiting = waiting;
        drop(queue);
        // Where he left just now, what was sent is dropped here, and with it the turn: the next one's.
        drop(first.tell.send(Go::Ask(Turn(self.0.clone()), all, others.into())));
    }
}

/// The longest range around `first` that the others fill but for a small part.
fn gathered(first: &Range<u64>, mut others: Vec<Range<u64>>) -> Range<u64> {
    let (mut all, mut gaps) = (first.clone(), 0);
    loop {
        let more = others.iter().enumerate().filter_map(|(at, other)| {
            let (start, end) = (all.start.min(other.start), all.end.max(other.end));
            let gap = other.start.saturating_sub(all.end) + all.start.saturating_sub(other.end);
            let asked = (end - start).checked_sub(gaps + gap)?;
            ((gaps + gap).saturating_mul(SPARE) <= asked && end - start <= LONGEST).then_some((gap, at))
        });
        let Some((gap, at)) = more.min() else { return all };
        let other = others.swap_remove(at);
        gaps += gap;
        all = all.start.min(other.start)..all.end.max(other.end);
    }
}

/// Gives everybody his part of `all`, as long as there is anybody. A refusal is the answer to the first of them, who asked;
/// the others ask themselves.
async fn share(turn: Turn, all: Range<u64>, asking: BoxFuture<'static, Result<Body>>, mut everybody: Vec<Waiting>) {
    let gone = future::join_all(everybody.iter_mut().map(|waiting| waiting.tell.closed()));
    let body = tokio::select! {
        body = asking => body,
        _ = gone => return,
    };
    match body {
        Ok(body) => {
            let parts = everybody.into_iter().filter_map(|Waiting { range, tell, .. }| {
                let (pieces, mut arriving) = mpsc::unbounded_channel();
                let arriving = stream::poll_fn(move |context| arriving.poll_recv(context));
                tell.send(Go::Take(Ok(arriving.boxed()))).is_ok().then_some(Part { range, pieces })
            });
            hand_out(body, all.start, parts.collect()).await;
        }
        Err(error) => drop(everybody.swap_remove(0).tell.send(Go::Take(Err(error)))),
    }
    drop(turn);
}

async fn hand_out(mut body: Body, mut at: u64, mut parts: Vec<Part>) {
    while !parts.is_empty() {
        match body.next().await {
            Some(Ok(piece)) => {
                let end = at + piece.len() as u64;
                parts.retain(|part| {
                    let (from, to) = (part.range.start.max(at), part.range.end.min(end));
                    let slice = (from < to).then(|| piece.slice((from - at) as usize..(to - at) as usize));
                    let is_heard =
                        slice.map_or_else(|| !part.pieces.is_closed(), |slice| part.pieces.send(Ok(slice)).is_ok());
                    is_heard && part.range.end > end
                });
                at = end;
            }
            Some(Err(error)) => return parts.iter().for_each(|part| drop(part.pieces.send(Err(error.clone())))),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::{FutureExt, TryStreamExt};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::backend::{Error, ErrorKind, Op, Path};

    const KIB: u64 = 1 << 10;

    #[test]
    fn neighbours_are_gathered_while_hardly_anything_lies_between() {
        for (first, others, all) in [
            (0..4, &[][..], 0..4),
            (4..8, &[(8, 12), (0, 4), (12, 16)], 0..16),
            (0..4, &[(5, 9)], 0..4),
            // One in twenty of what is asked.
            (0..100, &[(105, 205)], 0..205),
            (0..100, &[(110, 210)], 0..210),
            (0..100, &[(111, 211)], 0..100),
            // What is spent on one gap is not there for the next.
            (0..100, &[(110, 210), (217, 257)], 0..210),
            (0..100, &[(110, 210), (217, 417)], 0..417),
            (50..60, &[(40, 55), (58, 70), (52, 54)], 40..70),
            (0..8 << 20, &[(8 << 20, 9 << 20)], 0..8 << 20),
            (0..4 << 20, &[(5 << 20, 6 << 20), (4 << 20, 5 << 20)], 0..6 << 20),
            (10..20, &[(30, u64::MAX)], 10..20),
        ] {
            let ranges = others.iter().map(|(start, end)| *start..*end).collect();
            assert_eq!(gathered(&first, ranges), all, "{first:?} {others:?}");
        }
    }

    /// A store of one file that counts requests, each of which waits for a permit.
    #[derive(Clone)]
    struct Store {
        together: Together,
        may: Arc<Semaphore>,
        asked: Arc<Mutex<Vec<Range<u64>>>>,
        fails: Arc<AtomicUsize>,
    }

    impl Store {
        fn new(connections: usize) -> Store {
            let (may, asked, fails) = (Arc::new(Semaphore::new(0)), Arc::default(), Arc::default());
            Store { together: Together::new(connections), may, asked, fails }
        }

        fn read(&self, name: &str, range: Range<u64>) -> Reading {
            let (this, path) = (self.clone(), Path::parse(name).unwrap());
            tokio::spawn(async move {
                let file = Version { path, file: "1".into(), bytes: "1".into(), size: 1 << 30 };
                let store = this.clone();
                let ask = move |range: Range<u64>| {
                    let store = store.clone();
                    async move { store.answer(range).await }.boxed()
                };
                let until = Instant::now() + Duration::from_secs(60);
                let body = this.together.read(&file, range, until, ask).await.unwrap()?;
                Ok(body.try_collect::<Vec<_>>().await?.concat())
            })
        }

        async fn answer(&self, range: Range<u64>) -> Result<Body> {
            self.asked.lock().unwrap().push(range.clone());
            self.may.acquire().await.unwrap().forget();
            let error = || Error::new(ErrorKind::Unavailable, Op::Read, &Path::root(), "as told");
            match self.fails.load(Ordering::Relaxed) {
                0 => {}
                1 => return Err(error()),
                _ => {
                    let first = Ok(Bytes::from(bytes(range.start..range.start + KIB)));
                    return Ok(futures::stream::iter([first, Err(error())]).boxed());
                }
            }
            // In pieces of an odd length.
            let pieces: Vec<_> = bytes(range).chunks(777).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            Ok(futures::stream::iter(pieces).boxed())
        }

        fn asked(&self) -> Vec<Range<u64>> {
            self.asked.lock().unwrap().clone()
        }

        /// Free connections, and how many wait for one.
        fn left(&self) -> (usize, usize) {
            let queue = self.together.lock();
            (queue.free, queue.waiting.len())
        }

        /// All that can go on does.
        async fn settle() {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }

    type Reading = tokio::task::JoinHandle<Result<Vec<u8>>>;

    /// Of a store with one connection: a read that has it, and three neighbours that wait.
    async fn three_that_wait() -> (Store, Reading, Vec<(u64, Reading)>) {
        let store = Store::new(1);
        let first = store.read("f", block(100));
        Store::settle().await;
        let reads = (0..3).map(|number| (number, store.read("f", block(number)))).collect();
        Store::settle().await;
        (store, first, reads)
    }

    fn bytes(range: Range<u64>) -> Vec<u8> {
        range.map(|at| (at / 251) as u8 ^ at as u8).collect()
    }

    fn block(number: u64) -> Range<u64> {
        number * 4 * KIB..(number + 1) * 4 * KIB
    }

    #[tokio::test]
    async fn whoever_finds_a_free_connection_asks_alone() {
        let store = Store::new(8);
        let reads: Vec<_> = (0..8).map(|number| store.read("f", block(number))).collect();
        Store::settle().await;
        assert_eq!(store.asked().len(), 8);
        store.may.add_permits(8);
        for (number, read) in (0..).zip(reads) {
            assert!(read.await.unwrap().unwrap() == bytes(block(number)));
        }
    }

    #[tokio::test]
    async fn a_connection_is_free_with_the_last_byte() {
        let store = Store::new(1);
        store.may.add_permits(1);
        let file = Version { path: Path::root(), file: "1".into(), bytes: "1".into(), size: KIB };
        let asking = store.clone();
        let ask = move |range| {
            let store = asking.clone();
            async move { store.answer(range).await }.boxed()
        };
        let mut body = store.together.read(&file, 0..KIB, Instant::now(), ask).await.unwrap().unwrap();
        // It comes in two pieces.
        for free in [0, 1] {
            assert!(body.next().await.is_some());
            assert_eq!(store.left(), (free, 0));
        }
    }

    #[tokio::test]
    async fn neighbours_that_wait_are_one_request_and_each_has_his_bytes() {
        let store = Store::new(1);
        let first = store.read("f", block(100));
        Store::settle().await;
        let mut reads: Vec<_> =
            [3, 1, 2, 0].into_iter().map(|number| (number, store.read("f", block(number)))).collect();
        // Far away, and another file's.
        reads.push((50, store.read("f", block(50))));
        reads.push((4, store.read("g", block(4))));
        Store::settle().await;
        store.may.add_permits(4);
        assert!(first.await.unwrap().unwrap() == bytes(block(100)));
        for (number, read) in reads {
            assert!(read.await.unwrap().unwrap() == bytes(block(number)), "{number}");
        }
        assert_eq!(store.asked(), [block(100), 0..16 * KIB, block(50), block(4)]);
        assert_eq!(store.left(), (1, 0));
    }

    #[tokio::test]
    async fn whoever_leaves_takes_nothing_from_the_others() {
        // Which of three leaves: the one who asks for all, or another; while they wait, or while they are asked for.
        for (leaves, late) in [(0, false), (1, false), (0, true), (2, true)] {
            let (store, first, mut reads) = three_that_wait().await;
            if late {
                store.may.add_permits(1);
                Store::settle().await;
            }
            reads.remove(leaves).1.abort();
            Store::settle().await;
            // Without the middle one the others are no neighbours.
            store.may.add_permits(3);
            assert!(first.await.unwrap().is_ok());
            for (number, read) in reads {
                assert!(read.await.unwrap().unwrap() == bytes(block(number)), "{leaves} {late} {number}");
            }
            Store::settle().await;
            assert_eq!(store.left(), (1, 0));
        }
    }

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_any_more_is_given_up() {
        let (store, first, reads) = three_that_wait().await;
        store.may.add_permits(1);
        assert!(first.await.unwrap().is_ok());
        Store::settle().await;
        assert_eq!(store.asked().len(), 2);
        reads.iter().for_each(|(_, read)| read.abort());
        Store::settle().await;
        assert_eq!(store.together.lock().free, 1);
    }

    #[tokio::test]
    async fn a_refusal_is_told_to_who_asked_and_the_others_ask_themselves() {
        let (store, first, reads) = three_that_wait().await;
        store.may.add_permits(1);
        assert!(first.await.unwrap().is_ok());
        store.fails.store(1, Ordering::Relaxed);
        store.may.add_permits(3);
        for (_, read) in reads {
            assert_eq!(read.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
        }
        assert_eq!((store.asked()[1].clone(), store.left()), (0..12 * KIB, (1, 0)));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_everybodys() {
        let (store, first, reads) = three_that_wait().await;
        store.may.add_permits(1);
        assert!(first.await.unwrap().is_ok());
        store.fails.store(2, Ordering::Relaxed);
        store.may.add_permits(1);
        for (_, read) in reads {
            assert_eq!(read.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
        }
        assert_eq!((store.asked().len(), store.left()), (2, (1, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_he_said() {
        let store = Store::new(1);
        let _first = store.read("f", block(100));
        Store::settle().await;
        let file = Version { path: Path::root(), file: "1".into(), bytes: "1".into(), size: KIB };
        let begun = Instant::now();
        let patience = Duration::from_secs(3);
        let read = store.together.read(&file, 0..KIB, begun + patience, |_| unreachable!()).await;
        assert!(read.is_none() && begun.elapsed() < patience * 2);
        // The one who is gone is not asked for.
        store.may.add_permits(1);
        Store::settle().await;
        assert_eq!((store.asked().len(), store.left()), (1, (1, 0)));
    }
}
