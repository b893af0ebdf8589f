//! A reader of one file version: which parts to fetch, and which bytes of them answer a read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::part::{Claim, Part, Stay, Wanted};
use super::pattern::Cursors;
use super::{Config, Data, QUIET, ReadAhead};
use crate::backend::{Intent, Result, Version};
use crate::budget::Lease;

/// Whatever is fetched is whole pages of the file: the kernel asks for the neighbours in a page anyway.
pub(super) const PAGE: u64 = 4096;

/// Reads one version of a file.
#[derive(Debug)]
pub struct FileReader {
    ahead: Arc<ReadAhead>,
    version: Version,
    id: u64,
    itself: Weak<FileReader>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cursors: Cursors,
    /// Parts by their start. They do not overlap.
    parts: BTreeMap<u64, Arc<Part>>,
    last_read: Instant,
    /// Others know that there may be something to give up here.
    known: bool,
    /// When all that is in `parts` was fetched.
    era: u64,
    /// Something was fetched.
    begun: bool,
    /// It was read in order to its end.
    whole: bool,
    /// What is read next was thought of.
    followed: bool,
    /// Something was given up since then, and its memory is free.
    freed: bool,
}

/// What a read waits for, in order and without a gap. Dropped, it leaves no part behind that nobody wants.
#[derive(Debug)]
struct Claims<'a> {
    reader: &'a FileReader,
    /// Each with whether this read asked for it itself.
    claims: Vec<(Claim, bool)>,
}

impl FileReader {
    pub(super) fn new(
        ahead: Arc<ReadAhead>,
        version: Version,
        id: u64,
        itself: Weak<FileReader>,
        era: u64,
    ) -> FileReader {
        let (cursors, parts) = (Cursors::new(ahead.config().around), BTreeMap::new());
        let (known, begun, whole, followed, freed) = (false, false, false, false, false);
        let state = State { cursors, parts, last_read: Instant::now(), known, era, begun, whole, followed, freed };
        let state = Mutex::new(state);
        FileReader { ahead, version, id, itself, state }
    }

    /// Takes over the file's beginning, fetched before anybody read it.
    pub(super) fn adopt(&self, part: Arc<Part>) {
        let mut state = self.lock();
        state.parts.insert(part.range.start, part);
        state.begun = true;
        self.make_known(&mut state);
    }

    /// Fetches ahead of somebody who is expected to read all of the file, by `reach` bytes.
    pub(super) fn expect(&self, reach: u64) {
        let config = self.ahead.fair();
        let mut state = self.lock();
        state.cursors.expect(reach);
        self.make_known(&mut state);
        self.run_ahead(&mut state, &(0..0), &config);
    }

    /// Goes on fetching ahead of who is expected.
    pub(super) fn go_on(&self) {
        let config = self.ahead.fair();
        self.run_ahead(&mut self.lock(), &(0..0), &config);
    }

    /// The version that is read.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The bytes of `range` as far as the file has them: fewer only at its end.
    ///
    /// # Errors
    /// As [`Backend::read`](crate::backend::Backend::read), of what was asked of the store for this read. Where
    /// somebody else asked, for a guess or a read of his own, and failed, this read asks itself.
    pub async fn read(&self, range: Range<u64>) -> Result<Data> {
        let range = range.start..range.end.min(self.version.size);
        if range.start >= range.end {
            return Ok(Data::default());
        }
        let config = self.ahead.fair();
        self.observe(&range, &config);
        let mut pieces = Vec::new();
        let mut at = range.start;
        let mut last_try = false;
        while at < range.end {
            let wanted = self.claim(at..range.end, &config).await;
            self.think_of_the_next(&config);
            for (claim, own) in &wanted.claims {
                match claim.take().await {
                    Ok(more) => {
                        pieces.extend(more);
                        at = claim.range.end;
                    }
                    Err(error) if *own || last_try => {
                        // Guesses would meet the same.
                        self.lock().cursors.restart();
                        return Err(error);
                    }
                    Err(_) => {
                        last_try = true;
                        break;
                    }
                }
            }
        }
        Ok(Data(pieces))
    }

    fn observe(&self, range: &Range<u64>, config: &Config) {
        let mut state = self.lock();
        state.last_read = Instant::now();
        state.cursors.observe(range);
        self.follow_habits(&mut state, range, config);
        state.sweep(range);
        if state.cursors.sequential() > 0 {
            self.make_known(&mut state);
        }
    }

    /// Believes of the first read what others showed, and shows others what became of this file.
    fn follow_habits(&self, state: &mut State, read: &Range<u64>, config: &Config) {
        if state.cursors.is_begun()
            && !self.is_small(config)
            && let Some(reach) = self.ahead.habits().believe(&self.version.path)
        {
            state.cursors.believe(reach);
        }
        if let Some(goes_on) = state.cursors.goes_on(read) {
            let mut habits = self.ahead.habits();
            habits.decided(&self.version.path);
            if !goes_on {
                habits.left_early(&self.version.path);
            }
        }
        if !state.whole
            && let Some(reach) = state.cursors.reached(self.version.size)
        {
            state.whole = true;
            if !self.is_small(config) {
                self.ahead.habits().read_whole(&self.version.path, reach);
            }
        }
    }

    /// Where the rest of this file is on its way, the next one's turn comes.
    fn think_of_the_next(&self, config: &Config) {
        if self.is_small(config) {
            return;
        }
        let (is_first, freed) = {
            let mut state = self.lock();
            if !state.followed && !state.cursors.all_is_coming(self.version.size) {
                return;
            }
            (!std::mem::replace(&mut state.followed, true), std::mem::take(&mut state.freed))
        };
        if is_first {
            self.ahead.prepare_after(&self.version.path);
        } else if freed {
            self.ahead.go_on_preparing();
        }
    }

    /// It is fetched whole by the first read.
    fn is_small(&self, config: &Config) -> bool {
        self.version.size <= self.ahead.beginning(config)
    }

    /// Lets others know that there may be something to give up here.
    fn make_known(&self, state: &mut State) {
        if !state.known {
            state.known = true;
            self.ahead.readers().known.insert(self.id, self.itself.clone());
        }
    }

    /// Claims what is there or on its way of `range`, and fetches the rest, and what lies ahead.
    async fn claim(&self, range: Range<u64>, config: &Config) -> Claims<'_> {
        let mut paid = None;
        loop {
            match self.try_claim(&range, config, paid.take()) {
                Ok(claims) => return claims,
                Err(price) => paid = Some(self.ahead.pay(price).await),
            }
        }
    }

    /// `Err` with what `range` costs at most, where the budget does not have it.
    fn try_claim(
        &self,
        range: &Range<u64>,
        config: &Config,
        paid: Option<Lease>,
    ) -> std::result::Result<Claims<'_>, u64> {
        let mut state = self.lock();
        state.keep_up(self.ahead.era());
        let mut gaps = state.gaps(range);
        // What the reserve may have paid leaves with the read: nobody may wait for it in vain.
        let mut stay = if paid.is_none() { Stay::ForCursors } else { Stay::Leave };
        let mut lease = paid;
        if lease.is_none() && !gaps.is_empty() {
            lease = self.buy_whole(&state, &mut gaps, config);
            if lease.is_some() {
                stay = Stay::ForAnybody;
                self.make_known(&mut state);
            } else {
                lease = Some(self.buy(&mut state, range.end, &mut gaps, config).ok_or_else(|| self.price(range))?);
            }
        }
        for gap in &gaps {
            self.fetch(&mut state, gap, Intent::Demand, &mut lease, stay);
        }
        let mut claims = Vec::new();
        let mut at = range.start;
        for part in state.overlapping(range) {
            // Of two parts that overlap, the first answers: no byte comes twice.
            let rest = at..range.end.min(part.range.end);
            if rest.start < rest.end {
                at = rest.end;
                claims.push((part.claim(&rest), gaps.iter().any(|gap| part.range.contains(&gap.start))));
            }
        }
        if !claims.iter().all(|(claim, _)| claim.is_there()) {
            state.cursors.stalled(range, config);
        }
        self.run_ahead(&mut state, range, config);
        Ok(Claims { reader: self, claims })
    }

    /// Pays for all of a small file that nothing was fetched of yet, if that is possible at once: the rest costs less
    /// than to ask again.
    fn buy_whole(&self, state: &State, gaps: &mut Vec<Range<u64>>, config: &Config) -> Option<Lease> {
        let size = self.version.size;
        if state.begun || size > self.ahead.beginning(config) {
            return None;
        }
        let lease = self.ahead.budget.try_acquire(size)?;
        gaps.clear();
        gaps.push(0..size);
        Some(lease)
    }

    /// Pays for the gaps of a read that ends at `end`, if that is possible at once. A sequential reader that has to
    /// wait anyway waits for a little more, where that is possible too: its last gap grows.
    fn buy(&self, state: &mut State, end: u64, gaps: &mut [Range<u64>], config: &Config) -> Option<Lease> {
        let price = gaps.iter().map(|gap| self.price(gap)).sum::<u64>();
        let stop = state.cursors.stop(end).min(self.version.size);
        let cursor = state.cursors.at(end).filter(|cursor| cursor.next == end);
        if let (Some(gap), Some(cursor)) = (gaps.last_mut().filter(|gap| gap.end == end), cursor) {
            let free = state.parts.range(end..).next().map_or(stop, |(start, _)| stop.min(*start));
            let stretched = gap.start..gap.start.saturating_add(cursor.stretch(config)).min(free).max(end);
            let lease = self.ahead.budget.try_acquire(price - self.price(gap) + self.price(&stretched));
            if lease.is_some() {
                *gap = stretched;
                return lease;
            }
        }
        self.ahead.budget.try_acquire(price)
    }

    /// Fetches ahead of the readers that go on after `read`, as far as their windows and the budget go.
    fn run_ahead(&self, state: &mut State, read: &Range<u64>, config: &Config) {
        for number in state.cursors.concerned(read) {
            while let Some(range) = state.next_ahead(number, self.version.size, config) {
                let mut lease = self.ahead.budget.try_acquire(self.price(&range));
                if lease.is_none() {
                    return self.ahead.short.store(true, Ordering::Relaxed);
                }
                state.cursors.fetched(number, &range);
                for unread in state.cursors.unread(range) {
                    for gap in state.gaps(&unread) {
                        self.fetch(state, &gap, Intent::Ahead, &mut lease, Stay::ForCursors);
                    }
                }
            }
        }
    }

    /// Sends off a read of the pages of `gap`.
    fn fetch(&self, state: &mut State, gap: &Range<u64>, why: Intent, lease: &mut Option<Lease>, stay: Stay) {
        let pages = self.pages(gap);
        let lease = lease.as_mut().map(|lease| lease.split(pages.end - pages.start));
        let wanted = Wanted { range: pages, why, lease, stay };
        let part = Part::fetch(&self.ahead.backend, &self.ahead.link, &self.version, wanted, || {});
        state.parts.insert(part.range.start, part);
        state.begun = true;
    }

    fn pages(&self, range: &Range<u64>) -> Range<u64> {
        range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE).min(self.version.size)
    }

    /// What fetching `range` takes from the budget.
    fn price(&self, range: &Range<u64>) -> u64 {
        let pages = self.pages(range);
        pages.end - pages.start
    }

    /// How many sequential readers there are that go on, unless they went quiet. Where there is nothing to give up
    /// either, others need not know of it before it is read again.
    pub(super) fn count(&self) -> u64 {
        let mut state = self.lock();
        if !state.is_quiet() {
            return state.cursors.going_on(self.version.size);
        }
        if state.parts.is_empty() {
            state.known = false;
            self.ahead.readers().known.remove(&self.id);
        }
        0
    }

    /// Gives up what is of an earlier era.
    pub(super) fn forget(&self) {
        self.lock().keep_up(self.ahead.era());
    }

    /// Gives up what was fetched ahead, if the readers went quiet.
    pub(super) fn give_way(&self) {
        let mut state = self.lock();
        if state.is_quiet() {
            state.cursors.restart();
            state.parts.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        self.ahead.readers().known.remove(&self.id);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.cursors.is_believed() {
            self.ahead.habits().decided(&self.version.path);
        }
        if !state.whole && state.cursors.reads() > 0 && !self.is_small(&self.ahead.config()) {
            self.ahead.habits().left_early(&self.version.path);
        }
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        self.claims.clear();
        self.reader.lock().sweep(&(0..0));
    }
}

impl State {
    fn overlapping<'a>(&'a self, range: &'a Range<u64>) -> impl Iterator<Item = &'a Arc<Part>> {
        let before = self.parts.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.parts.range(before..range.end).map(|(_, part)| part).filter(|part| part.range.end > range.start)
    }

    /// The ranges of `range` that no part holds or will hold.
    fn gaps(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let broken: Vec<_> =
            self.overlapping(range).filter(|part| part.is_broken()).map(|part| part.range.start).collect();
        broken.iter().for_each(|start| drop(self.parts.remove(start)));
        let mut gaps = Vec::new();
        let mut at = range.start;
        for part in self.overlapping(range) {
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

    /// The next range that the cursor of this number wants fetched: before it, or behind where it goes backwards.
    fn next_ahead(&mut self, number: usize, size: u64, config: &Config) -> Option<Range<u64>> {
        let State { cursors, parts, .. } = self;
        let (ahead, behind) = (cursors.stop_ahead(number).min(size), cursors.stop_behind(number));
        let cursor = cursors.cursor(number)?;
        while let Some((_, part)) = parts.range(..=cursor.frontier).next_back()
            && cursor.frontier < part.range.end
        {
            cursor.fetched(part.range.end);
        }
        while let Some((_, part)) = parts.range(..cursor.floor()).next_back()
            && cursor.floor() <= part.range.end
        {
            cursor.fetched_behind(part.range.start);
        }
        cursor.ahead(ahead, config).or_else(|| cursor.behind(behind, config))
    }

    /// Drops what is of another era. Who claims some of it already keeps that.
    fn keep_up(&mut self, era: u64) {
        if self.era != era {
            self.parts.clear();
            self.cursors.restart();
            self.era = era;
        }
    }

    fn is_quiet(&self) -> bool {
        self.last_read.elapsed() >= QUIET && !self.parts.values().any(|part| part.is_claimed())
    }

    /// Drops the parts that no read waits for and no reader comes to, but for those that `read` is about to claim.
    fn sweep(&mut self, read: &Range<u64>) {
        let State { cursors, parts, freed, .. } = self;
        let before = parts.len();
        parts.retain(|_, part| {
            let claimed = part.is_claimed() || part.range.start < read.end && read.start < part.range.end;
            claimed || ((part.is_for_anybody() || cursors.want(&part.range)) && !part.is_spent())
        });
        *freed |= parts.len() < before;
    }
}
