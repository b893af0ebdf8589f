//! What is known in memory of one version: which blocks are on the disk, and which somebody is fetching.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::bits::Bits;
use super::files::Files;
use super::layout::{Key, Layout};
use crate::backend::Version;

/// A read that begins after such a pause is another visit.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) layout: Layout,
    /// Held while files are looked for or made.
    pub(super) opening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Blocks came to be there, or somebody fetches them no longer.
    pub(super) changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    /// Whether the disk was looked at.
    pub(super) looked: bool,
    /// What is on the disk, if anything is.
    pub(super) files: Option<Arc<Files>>,
    /// The blocks that are there, while there are files.
    present: Bits,
    /// First block and end of what somebody fetches.
    claims: BTreeMap<u64, u64>,
    last_read: Option<Instant>,
    /// Nothing more of it is kept, until it is visited again.
    pub(super) shut: bool,
    /// Readers that the kernel serves from its file: not to be changed.
    pub(super) lent: u64,
    /// Somebody compares all of it with its checksums.
    pub(super) is_sealing: bool,
}

/// What a read makes of a range of bytes.
#[derive(Debug)]
pub(super) enum Step {
    /// It is on the disk.
    Cached(Range<u64>),
    /// Somebody is fetching it.
    Awaited(Range<u64>),
    /// It is to be fetched, and kept where it is claimed.
    Missing(Range<u64>, Option<Claim>),
}

impl Slot {
    pub(super) fn new(key: Key, version: Version) -> Slot {
        let layout = Layout::of(version.size);
        let state = State {
            looked: false,
            files: None,
            present: Bits::default(),
            claims: BTreeMap::new(),
            last_read: None,
            shut: false,
            lent: 0,
            is_sealing: false,
        };
        let (opening, changed) = (tokio::sync::Mutex::default(), Notify::new());
        Slot { key, version, layout, opening, state: Mutex::new(state), changed }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a read from `start` on. True where it is another visit than the last one.
    pub(super) fn visit(&self, start: u64) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let before = state.last_read.replace(now);
        let again = start == 0 || before.is_none_or(|before| now - before >= PAUSE);
        if again {
            state.shut = false;
        }
        again
    }

    /// Whoever waits for blocks of it looks again.
    pub(super) fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// What is there of `range`, and what is to be fetched: neighbours of one kind are one step. What nobody fetches yet
    /// is claimed if it may be `kept`. With `alone` nobody is waited for.
    pub(super) fn plan(self: &Arc<Self>, range: &Range<u64>, kept: bool, alone: bool) -> Vec<Step> {
        #[derive(PartialEq)]
        enum Kind {
            Cached,
            Awaited,
            Missing,
        }
        let mut state = self.lock();
        let mut steps = Vec::new();
        let mut block = range.start / self.layout.block;
        let mut at = range.start;
        let kind_of = |state: &State, block: u64| match (state.is_present(block), state.is_claimed(block)) {
            (true, _) => Kind::Cached,
            (false, true) if !alone => Kind::Awaited,
            _ => Kind::Missing,
        };
        while at < range.end {
            let kind = kind_of(&state, block);
            let first = block;
            while block * self.layout.block < range.end && kind_of(&state, block) == kind {
                block += 1;
            }
            let step = at..(block * self.layout.block).min(range.end);
            at = step.end;
            steps.push(match kind {
                Kind::Cached => Step::Cached(step),
                Kind::Awaited => Step::Awaited(step),
                Kind::Missing => {
                    let whole = self.layout.within(&step);
                    debug_assert!(whole.start >= first && whole.end <= block);
                    // Somebody else's claim may lie in between where nobody is waited for.
                    let free = kept && !whole.is_empty() && !state.overlaps(&whole);
                    let claim = free.then(|| {
                        state.claims.insert(whole.start, whole.end);
                        Claim { slot: self.clone(), blocks: whole }
                    });
                    Step::Missing(step, claim)
                }
            });
        }
        steps
    }

    /// Resolves when nobody fetches a block of `range` any more. False where nothing changed for `patience` before.
    pub(super) async fn settled(&self, range: &Range<u64>, patience: Duration) -> bool {
        let blocks = self.layout.touching(range);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change after it is missed.
            changed.as_mut().enable();
            if !self.lock().overlaps(&blocks) {
                return true;
            }
            if tokio::time::timeout(patience, changed).await.is_err() {
                return false;
            }
        }
    }

    /// What was written to `files` is there from now on. False where those are no longer its files.
    pub(super) fn arrived(&self, files: &Arc<Files>, blocks: Range<u64>) -> bool {
        let mut state = self.lock();
        let is_current = state.files.as_ref().is_some_and(|held| Arc::ptr_eq(held, files));
        if is_current {
            state.present.set(blocks);
        }
        is_current
    }

    /// A block of `files` is not what was written.
    pub(super) fn rotted(&self, files: &Arc<Files>, block: u64) {
        let mut state = self.lock();
        if state.files.as_ref().is_some_and(|held| Arc::ptr_eq(held, files)) {
            state.present.clear(block);
        }
    }

    /// Takes the files in, with what is there of each block.
    pub(super) fn opened(&self, files: Arc<Files>, present: Bits) {
        let mut state = self.lock();
        state.looked = true;
        state.files = Some(files);
        state.present = present;
    }

    /// Nothing of it is on the disk any more, unless somebody reads it there. True where that is so.
    pub(super) fn removed(&self) -> bool {
        let mut state = self.lock();
        if state.lent > 0 {
            return false;
        }
        state.files = None;
        state.present = Bits::default();
        state.looked = true;
        true
    }
}

impl State {
    fn is_present(&self, block: u64) -> bool {
        self.present.get(block)
    }

    /// Every block is there.
    pub(super) fn is_complete(&self) -> bool {
        self.files.is_some() && self.present.all()
    }

    /// Bytes of memory that what is known takes.
    pub(super) fn weight(&self) -> usize {
        size_of::<Slot>() + self.present.weight()
    }

    fn is_claimed(&self, block: u64) -> bool {
        self.overlaps(&(block..block + 1))
    }

    fn overlaps(&self, blocks: &Range<u64>) -> bool {
        self.claims.range(..blocks.end).next_back().is_some_and(|(_, end)| *end > blocks.start)
    }
}

/// Somebody fetches these blocks, for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) slot: Arc<Slot>,
    pub(super) blocks: Range<u64>,
}

impl Claim {
    /// Takes the blocks before `end` out as a claim of their own.
    pub(super) fn split(&mut self, end: u64) -> Claim {
        let mut state = self.slot.lock();
        let first = self.blocks.start..end.clamp(self.blocks.start, self.blocks.end);
        state.claims.remove(&self.blocks.start);
        self.blocks.start = first.end;
        for part in [&first, &self.blocks] {
            if !part.is_empty() {
                state.claims.insert(part.start, part.end);
            }
        }
        drop(state);
        Claim { slot: self.slot.clone(), blocks: first }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.blocks.is_empty() {
            self.slot.lock().claims.remove(&self.blocks.start);
            self.slot.tell();
        }
    }
}
