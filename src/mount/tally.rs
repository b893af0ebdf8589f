//! What a volume's files take, as all its workers on this node know it together: what one of them changes counts for the
//! others within a moment, and what one has counted no other counts.
//!
//! Every worker keeps a sum of its own, and whoever changes it says by how much. Sums that once were equal stay so in
//! whatever order the others hear of it, a corrected count being a change like any other. So nothing of this is kept
//! over a restart: each worker says where it stands when a node plugin finds it, and whoever counted last is right.
//!
//! What a worker says is believed, of its own volume: one that lies could as well write past the limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The directories that are kept apart for one who does not listen; further ones are told as one.
const MOST_DIRECTORIES: usize = 1024;

/// Stands for all further directories.
const FURTHER: u64 = 0;

/// Counts that began so near each other are one.
const SAME: Duration = Duration::from_secs(1);

/// Between two words to one worker.
const PAUSE: Duration = Duration::from_millis(50);

/// What became of a volume's use since the last word: from a worker what it did, to a worker what all others did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// What the worker knew before `changes`, in its first word to a node plugin.
    pub base: Option<Amount>,
    /// What was changed, by directory.
    pub changes: Vec<Change>,
    /// Bytes that are written and not in the store yet. Not since the last word, but all of them.
    pub unpublished: u64,
    /// Milliseconds since the count began that the sum rests on; `None` before the first.
    pub counted_ms: Option<u64>,
    /// The volume is being counted.
    pub counting: bool,
}

/// A change in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Stands for the directory: the same number in all workers. `None` where not the volume has changed but what is
    /// known of it.
    pub dir: Option<u64>,
    /// By how much.
    pub by: Amount,
}

/// Bytes and names, or a difference of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Bytes.
    pub bytes: i64,
    /// Files and directories.
    pub inodes: i64,
}

impl Amount {
    fn plus(self, more: Amount) -> Amount {
        Amount { bytes: self.bytes.saturating_add(more.bytes), inodes: self.inodes.saturating_add(more.inodes) }
    }

    fn less(self, other: Amount) -> Amount {
        Amount { bytes: self.bytes.saturating_sub(other.bytes), inodes: self.inodes.saturating_sub(other.inodes) }
    }
}

/// Of all volumes of this node. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    volumes: HashMap<String, Account>,
    /// Tells one member from the next.
    next: u64,
}

/// Of one volume, while any of its workers tells of its use.
#[derive(Debug, Default)]
struct Account {
    stored: Amount,
    /// When the count began that `stored` rests on.
    counted: Option<Instant>,
    workers: HashMap<u64, Worker>,
}

#[derive(Debug)]
struct Worker {
    unpublished: u64,
    counting: bool,
    /// What it has not been told yet.
    untold: HashMap<Option<u64>, Amount>,
    bell: Arc<Notify>,
}

/// A worker's part in its volume's account; given up when dropped.
#[derive(Debug)]
pub(super) struct Member {
    sums: Sums,
    volume_id: String,
    number: u64,
    bell: Arc<Notify>,
    /// When the worker was last told something.
    told: Option<Instant>,
}

impl Sums {
    /// The part of a worker of the volume, of which nothing is known yet.
    pub(super) fn member(&self, volume_id: &str) -> Member {
        let mut open = self.open();
        open.next += 1;
        let (sums, volume_id) = (self.clone(), volume_id.to_owned());
        Member { sums, volume_id, number: open.next, bell: Arc::default(), told: None }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Takes note of what the worker says, for the others.
    pub(super) fn hear(&self, told: Tally) {
        let mut open = self.sums.open();
        let account = open.volumes.entry(self.volume_id.clone()).or_default();
        let counted = told.counted_ms.and_then(|age| Instant::now().checked_sub(Duration::from_millis(age)));
        if told.base.is_some() || !account.workers.contains_key(&self.number) {
            account.join(self.number, &self.bell, told.base, counted);
        }
        for Change { dir, by } in told.changes {
            account.change(self.number, dir, by);
        }
        if is_later(counted, account.counted) {
            account.counted = counted;
        }
        if let Some(worker) = account.workers.get_mut(&self.number) {
            (worker.unpublished, worker.counting) = (told.unpublished, told.counting);
        }
        account.ring(self.number);
    }

    /// Waits until there is something to tell the worker. May be cancelled and called again.
    pub(super) async fn called(&self) {
        if let Some(told) = self.told {
            tokio::time::sleep_until(told + PAUSE).await;
        }
        self.bell.notified().await;
    }

    /// What the others did since the last time.
    pub(super) fn news(&mut self) -> Tally {
        self.told = Some(Instant::now());
        let mut open = self.sums.open();
        let Some(account) = open.volumes.get_mut(&self.volume_id) else { return Tally::default() };
        let (mut unpublished, mut counting) = (0u64, false);
        for worker in account.workers.iter().filter(|(number, _)| **number != self.number).map(|(_, worker)| worker) {
            unpublished = unpublished.saturating_add(worker.unpublished);
            counting |= worker.counting;
        }
        let age = |counted: Instant| u64::try_from(counted.elapsed().as_millis()).unwrap_or(u64::MAX);
        let untold = account.workers.get_mut(&self.number).map(|worker| std::mem::take(&mut worker.untold));
        Tally {
            base: None,
            changes: untold.unwrap_or_default().into_iter().map(|(dir, by)| Change { dir, by }).collect(),
            unpublished,
            counted_ms: account.counted.map(age),
            counting,
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut open = self.sums.open();
        let Some(account) = open.volumes.get_mut(&self.volume_id) else { return };
        account.workers.remove(&self.number);
        account.ring(self.number);
        if account.workers.is_empty() {
            open.volumes.remove(&self.volume_id);
        }
    }
}

impl Account {
    /// Brings the sum of a worker and that of the others together: the one is right that rests on the later count.
    fn join(&mut self, number: u64, bell: &Arc<Notify>, base: Option<Amount>, counted: Option<Instant>) {
        let base = base.unwrap_or(self.stored);
        let is_first = self.workers.keys().all(|other| *other == number);
        let worker = Worker { unpublished: 0, counting: false, untold: HashMap::new(), bell: bell.clone() };
        self.workers.insert(number, worker);
        if is_first || is_later(counted, self.counted) {
            self.change(number, None, base.less(self.stored));
            (self.stored, self.counted) = (base, counted);
        } else if let Some(worker) = self.workers.get_mut(&number) {
            worker.untold.insert(None, self.stored.less(base));
        }
        bell.notify_one();
    }

    /// A worker has changed the volume, or what is known of it where there is no `dir`.
    fn change(&mut self, number: u64, dir: Option<u64>, by: Amount) {
        self.stored = self.stored.plus(by);
        for worker in self.workers.iter_mut().filter(|(other, _)| **other != number).map(|(_, worker)| worker) {
            let full = worker.untold.len() >= MOST_DIRECTORIES && !worker.untold.contains_key(&dir);
            let dir = if full && dir.is_some() { Some(FURTHER) } else { dir };
            let sum = worker.untold.entry(dir).or_default();
            *sum = sum.plus(by);
        }
    }

    /// Calls everybody but that worker.
    fn ring(&self, number: u64) {
        self.workers.iter().filter(|(other, _)| **other != number).for_each(|(_, worker)| worker.bell.notify_one());
    }
}

/// Whether a count began later than another. Ages travel, and each journey makes a count a little younger.
fn is_later(counted: Option<Instant>, than: Option<Instant>) -> bool {
    match (counted, than) {
        (Some(counted), Some(than)) => counted > than + SAME,
        (counted, than) => counted > than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: i64) -> Amount {
        Amount { bytes, inodes: 0 }
    }

    fn changed(dir: u64, by: i64) -> Tally {
        Tally { changes: vec![Change { dir: Some(dir), by: bytes(by) }], ..Tally::default() }
    }

    fn begun(base: i64, counted_ms: Option<u64>) -> Tally {
        Tally { base: Some(bytes(base)), counted_ms, ..Tally::default() }
    }

    /// A worker as the node plugin sees it, and its sum.
    struct Seen(Member, i64);

    impl Seen {
        fn join(sums: &Sums, base: i64, counted_ms: Option<u64>) -> Seen {
            let seen = Seen(sums.member("v"), base);
            seen.0.hear(begun(base, counted_ms));
            seen
        }

        fn write(&mut self, dir: u64, by: i64) {
            self.1 += by;
            self.0.hear(changed(dir, by));
        }

        fn listen(&mut self) -> Tally {
            let news = self.0.news();
            self.1 += news.changes.iter().map(|change| change.by.bytes).sum::<i64>();
            news
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_does_counts_for_all_of_the_volume() {
        let sums = Sums::default();
        let mut one = Seen::join(&sums, 0, None);
        one.write(7, 100);
        let mut two = Seen::join(&sums, 0, None);
        let other = sums.member("w");
        other.hear(begun(1000, None));
        two.0.called().await;
        assert_eq!(two.listen().changes, [Change { dir: None, by: bytes(100) }]);
        two.write(7, 10);
        two.write(8, -3);
        one.0.called().await;
        let mut news = one.listen().changes;
        news.sort_by_key(|change| change.dir);
        assert_eq!(news, [(7, 10), (8, -3)].map(|(dir, by)| Change { dir: Some(dir), by: bytes(by) }));
        assert_eq!((one.1, two.1), (107, 107));
        assert_eq!(one.listen().changes, [], "everything once");

        two.0.hear(Tally { unpublished: 5, counting: true, ..Tally::default() });
        let news = one.listen();
        assert_eq!((news.unpublished, news.counting), (5, true));
        assert_eq!(two.listen().unpublished, 0, "its own it knows");
        drop(two);
        one.0.called().await;
        let news = one.listen();
        assert_eq!(
            (news.unpublished, news.counting, one.1),
            (0, false, 107),
            "what it had not published never will be"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_counted_last_is_right() {
        for (first, second, right) in [
            ((100, None), (0, None), 100),
            ((100, Some(10_000)), (30, None), 100),
            ((100, Some(10_000)), (30, Some(20_000)), 100),
            ((100, Some(10_000)), (30, Some(9_500)), 100),
            ((100, Some(20_000)), (30, Some(10_000)), 30),
            ((100, None), (30, Some(10_000)), 30),
        ] {
            tokio::time::advance(Duration::from_secs(60)).await;
            let sums = Sums::default();
            let mut one = Seen::join(&sums, first.0, first.1);
            let mut two = Seen::join(&sums, second.0, second.1);
            one.write(1, 5);
            two.write(2, 6);
            let news = (one.listen(), two.listen());
            assert_eq!((one.1, two.1), (right + 11, right + 11), "{first:?} {second:?}");
            assert_eq!(news.0.counted_ms, news.1.counted_ms);
            // The next node plugin hears the same from both, in any order.
            let next = Sums::default();
            let (mut two, mut one) = (Seen::join(&next, two.1, None), Seen::join(&next, one.1, None));
            one.listen();
            two.listen();
            assert_eq!((one.1, two.1), (right + 11, right + 11));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_reaches_everybody_as_the_difference_that_it_makes() {
        tokio::time::advance(Duration::from_secs(60)).await;
        let sums = Sums::default();
        let (mut one, mut two) = (Seen::join(&sums, 0, None), Seen::join(&sums, 0, None));
        two.write(1, 10);
        // It has counted 500, and does not know yet what the other has just done.
        one.1 += 500;
        let correction = vec![Change { dir: None, by: bytes(500) }];
        one.0.hear(Tally { changes: correction, counted_ms: Some(3), ..Tally::default() });
        let news = two.listen();
        one.listen();
        assert_eq!((one.1, two.1, news.counted_ms), (510, 510, Some(3)));
        let mut late = Seen::join(&sums, 0, None);
        late.listen();
        assert_eq!(late.1, 510);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_does_not_listen_costs_little_and_loses_nothing() {
        let sums = Sums::default();
        let (mut one, mut deaf) = (Seen::join(&sums, 0, None), Seen::join(&sums, 0, None));
        for dir in 1..=3000 {
            one.write(dir, 1);
        }
        assert!(deaf.listen().changes.len() <= MOST_DIRECTORIES + 2);
        assert_eq!(deaf.1, 3000);
        drop((one, deaf));
        assert!(sums.open().volumes.is_empty());
    }

    /// Numbers that no worker means.
    #[tokio::test(start_paused = true)]
    async fn a_worker_that_lies_is_believed_of_its_own_volume_alone() {
        let sums = Sums::default();
        let honest = sums.member("w");
        honest.hear(begun(7, None));
        let liar = sums.member("v");
        for base in [i64::MAX, i64::MIN] {
            liar.hear(begun(base, Some(u64::MAX)));
            liar.hear(changed(1, base));
            liar.hear(Tally { unpublished: u64::MAX, ..changed(1, base) });
        }
        let mut other = sums.member("w");
        other.hear(begun(0, None));
        assert_eq!(other.news(), Tally { changes: vec![Change { dir: None, by: bytes(7) }], ..Tally::default() });
    }
}
