//! A reader of one file version: which parts to fetch, and which bytes of them answer a read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::part::Part;
use super::window::Cursors;
use super::{Data, ReadAhead};
use crate::backend::{Intent, Result, Version};
use crate::budget::Lease;

/// Random reads are rounded out to pages: the kernel asks for the neighbours in a page anyway.
const PAGE: u64 = 4096;
/// How long a read waits for the budget before it goes without. What goes without is one read of the kernel's, at
/// most 1 MiB, and only while something else, such as files being written, holds the whole budget.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads one version of a file.
#[derive(Debug)]
pub struct FileReader {
    ahead: Arc<ReadAhead>,
    version: Version,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cursors: Cursors,
    /// Parts by their start. They do not overlap.
    parts: BTreeMap<u64, Arc<Part>>,
}

impl FileReader {
    pub(super) fn new(ahead: Arc<ReadAhead>, version: Version) -> FileReader {
        FileReader { ahead, version, state: Mutex::default() }
    }

    /// The version that is read.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The bytes of `range` as far as the file has them: fewer only at its end.
    ///
    /// # Errors
    /// As [`Backend::read`](crate::backend::Backend::read). A failed fetch ahead is no error: what a reader waits for
    /// is asked once more.
    pub async fn read(&self, range: Range<u64>) -> Result<Data> {
        let range = range.start..range.end.min(self.version.size);
        if range.start >= range.end {
            return Ok(Data::default());
        }
        let (sequential, part) = self.note(&range);
        let gaps = self.lock().gaps(&range);
        if !gaps.is_empty() {
            self.demand(&gaps, if sequential { part } else { 0 }).await;
        }
        self.run_ahead(&range);
        self.collect(range).await
    }

    /// Takes note of a read; tells whether a sequential reader made it, and its part size.
    fn note(&self, range: &Range<u64>) -> (bool, u64) {
        let mut state = self.lock();
        let config = &self.ahead.config;
        let (cursor, gone) = state.cursors.observe(range, config);
        let advice = (cursor.is_sequential(), cursor.part(config));
        for range in gone {
            state.give_up(&range);
        }
        advice
    }

    /// Fetches what is missing of a read. A sequential reader's last gap grows to `part` bytes while they are free.
    async fn demand(&self, gaps: &[Range<u64>], part: u64) {
        let budget = &self.ahead.budget;
        let mut wanted: Vec<_> = gaps.iter().map(|gap| self.rounded(gap, part)).collect();
        let total = |wanted: &[Range<u64>]| wanted.iter().map(|range| range.end - range.start).sum::<u64>();
        let mut lease = budget.try_acquire(total(&wanted));
        if lease.is_none() {
            self.ahead.give_way();
            wanted = gaps.iter().map(|gap| self.rounded(gap, 0)).collect();
            lease = tokio::time::timeout(PATIENCE, budget.acquire(total(&wanted))).await.ok();
        }
        let mut state = self.lock();
        for range in wanted {
            // Another read may have asked for some of it meanwhile.
            for gap in state.gaps(&range) {
                let share = lease.as_mut().map(|lease| lease.split(gap.end - gap.start));
                self.fetch(&mut state, gap, Intent::Demand, share);
            }
        }
    }

    fn rounded(&self, gap: &Range<u64>, part: u64) -> Range<u64> {
        let end = gap.end.max(gap.start.saturating_add(part)).next_multiple_of(PAGE);
        gap.start / PAGE * PAGE..end.min(self.version.size)
    }

    /// Fetches ahead of the reader that made this read, as far as its window and the budget go.
    fn run_ahead(&self, read: &Range<u64>) {
        let mut state = self.lock();
        let config = self.ahead.config;
        loop {
            let State { cursors, parts } = &mut *state;
            let Some(cursor) = cursors.at(read.end) else { return };
            if let Some((_, last)) = parts.range(..=read.end.saturating_sub(1)).next_back() {
                cursor.fetched(last.range.end);
            }
            let Some(range) = cursor.ahead(self.version.size, &config) else { return };
            let Some(lease) = self.ahead.budget.try_acquire(range.end - range.start) else { return };
            cursor.fetched(range.end);
            let mut lease = Some(lease);
            for gap in state.gaps(&range) {
                let share = lease.as_mut().map(|lease| lease.split(gap.end - gap.start));
                self.fetch(&mut state, gap, Intent::Ahead, share);
            }
        }
    }

    fn fetch(&self, state: &mut State, range: Range<u64>, why: Intent, lease: Option<Lease>) {
        let part = Part::fetch(&self.ahead.backend, &self.version, range, why, lease);
        state.parts.insert(part.range.start, part);
    }

    /// Waits for the parts that hold `range` and joins their bytes.
    async fn collect(&self, range: Range<u64>) -> Result<Data> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let mut again = true;
        while at < range.end {
            let part = self.lock().part_at(at);
            let Some(part) = part else {
                // Given up, or spent by another read, since it was planned.
                self.demand(&[at..range.end], 0).await;
                continue;
            };
            let end = part.range.end.min(range.end);
            match part.take(at..end).await {
                Ok(data) => {
                    pieces.extend(data.0);
                    at = end;
                    if part.is_spent() {
                        self.lock().drop_part(&part);
                    }
                }
                Err(error) => {
                    self.lock().drop_part(&part);
                    if !again {
                        return Err(error);
                    }
                    again = false;
                }
            }
        }
        Ok(Data(pieces))
    }

    /// Gives up what was read ahead and nobody waits for.
    pub(super) fn give_way(&self) {
        let mut state = self.lock();
        state.parts.retain(|_, part| part.is_awaited());
        state.cursors.forget_ahead();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The ranges of `range` that no part holds or will hold.
    fn gaps(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.parts.retain(|_, part| !part.is_broken() || part.is_awaited());
        let mut gaps = Vec::new();
        let mut at = range.start;
        let before = self.parts.range(..range.start).next_back().map(|(start, _)| *start);
        for (_, part) in self.parts.range(before.unwrap_or(range.start)..range.end) {
            if part.range.end <= at {
                continue;
            }
            if part.range.start > at {
                gaps.push(at..part.range.start);
            }
            at = part.range.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    fn part_at(&self, at: u64) -> Option<Arc<Part>> {
        let (_, part) = self.parts.range(..=at).next_back()?;
        (at < part.range.end).then(|| part.clone())
    }

    fn drop_part(&mut self, part: &Arc<Part>) {
        if self.parts.get(&part.range.start).is_some_and(|held| Arc::ptr_eq(held, part)) {
            self.parts.remove(&part.range.start);
        }
    }

    /// Drops the parts within `range` that no reader waits for and no cursor comes to.
    fn give_up(&mut self, range: &Range<u64>) {
        let State { cursors, parts } = self;
        parts.retain(|start, part| {
            let inside = range.start <= *start && part.range.end <= range.end;
            !inside || part.is_awaited() || cursors.want(&part.range)
        });
    }
}
