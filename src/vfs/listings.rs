//! What listings told, remembered: so that a listed file is looked up without the store, for as long as a listing is
//! believed, and so that the files of a directory are fetched ahead of a reader who goes through them in their order.
//!
//! A listing's order outlives what it said of the files: a guess is pinned to a version, which past the listing's time the
//! store is asked to prove. What is kept is compact, paid for from the budget, and bounded: the directory that was used
//! least recently goes first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::changes::Ticket;
use super::few::Trust;
use super::rows::{Row, Rows};
use crate::backend::{Entry, Meta, Name, Path, Version};
use crate::budget::Budget;
use crate::prefetch::{Ahead, Source, Target};

/// Entries that are paid for at once.
const BLOCK: usize = 256;
/// What an entry takes, in bytes, with a name and a version of usual lengths.
const ENTRY: u64 = 192;
/// Part of the budget that listings may take.
const SHARE: u64 = 32;
/// Files of one directory that are fetched ahead of one reader, at most.
const MOST_AHEAD: usize = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Listings {
    budget: Budget,
    known: Mutex<Known>,
    /// Locked last.
    trust: Mutex<Trust>,
}

#[derive(Debug, Default)]
struct Known {
    passes: HashMap<Path, (Arc<Pass>, Instant)>,
}

/// One pass over a directory, as far as it was read. Shared by who lists and who looks up.
#[derive(Debug)]
pub(super) struct Pass {
    dir: Path,
    /// From before the store was asked.
    pub(super) asked: Arc<Ticket>,
    at: Instant,
    reign: u64,
    pub(super) source: Source,
    rows: Mutex<Rows>,
}

/// What a listing said of a name.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) meta: Meta,
    pub(super) pass: Arc<Pass>,
}

/// What follows from a read of a file that was listed.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) source: Source,
    /// To be fetched ahead.
    pub(super) ahead: Vec<Target>,
    /// Passed over.
    pub(super) passed: Vec<Path>,
    pub(super) pass: Arc<Pass>,
    pub(super) at: usize,
    /// What is to be fetched after that, of the directory that comes next.
    pub(super) beyond: Option<(Source, Vec<Target>)>,
}

impl Listings {
    pub(super) fn new(budget: Budget) -> Listings {
        Listings { budget, known: Mutex::default(), trust: Mutex::default() }
    }

    /// A pass over `dir` begins, which is believed for `ttl`. Who looks up is told of it at once where nothing is
    /// remembered that may still be believed, else by [`Listings::done`].
    pub(super) fn begin(&self, dir: &Path, asked: Arc<Ticket>, reign: u64, source: Source, ttl: Duration) -> Arc<Pass> {
        let (at, rows) = (Instant::now(), Mutex::default());
        let pass = Arc::new(Pass { dir: dir.clone(), asked, at, reign, source, rows });
        let mut known = self.known();
        let old = known.passes.get(dir).is_some_and(|(old, _)| old.reign == reign && old.left(ttl).is_some());
        if !old {
            known.passes.insert(dir.clone(), (pass.clone(), at));
        }
        drop(known);
        pass
    }

    /// An entry of a pass, the next one.
    pub(super) fn push(&self, pass: &Pass, name: &Name, meta: &Meta) {
        let mut rows = pass.rows();
        if rows.full {
            return;
        }
        if rows.rows.len().is_multiple_of(BLOCK) {
            // Only the first entries of a directory that is too large for it.
            let fits = rows.rows.len() < self.most() && self.make_room(pass, rows.rows.len() + BLOCK);
            match self.budget.try_acquire(BLOCK as u64 * ENTRY).filter(|_| fits) {
                Some(lease) => rows.leases.push(lease),
                None => return rows.full = true,
            }
        }
        rows.push(name, meta);
    }

    /// A pass is at its end: from now on it is what is remembered.
    pub(super) fn done(&self, pass: &Arc<Pass>) {
        pass.rows().complete();
        self.known().passes.insert(pass.dir.clone(), (pass.clone(), Instant::now()));
    }

    /// What the newest listing of the directory of `path` said of it, whenever that was.
    pub(super) fn get(&self, path: &Path, reign: u64) -> Option<Remembered> {
        let (pass, name) = self.pass_of(path, reign)?;
        let meta = {
            let rows = pass.rows();
            let row = rows.rows.get(rows.find(&name)?).filter(|row| !row.outdated)?;
            rows.meta(row, &pass.dir)
        };
        Some(Remembered { meta, pass })
    }

    /// Whether the newest listing of the directory of `path`, whenever that was, was whole and did not have it.
    pub(super) fn lacks(&self, path: &Path, reign: u64) -> bool {
        self.pass_of(path, reign).is_some_and(|(pass, name)| pass.rows().lacks(&name))
    }

    /// All entries of `dir`, where it was listed within the last `while_ago`.
    pub(super) fn all(&self, dir: &Path, reign: u64, while_ago: Duration) -> Option<Vec<Entry>> {
        let pass = self.known().passes.get(dir).map(|(pass, _)| pass.clone())?;
        pass.left(while_ago).filter(|_| pass.reign == reign)?;
        pass.rows().all(dir)
    }

    /// How many entries the listing has that told of `path`, as far as one did.
    pub(super) fn beside(&self, path: &Path, reign: u64) -> Option<usize> {
        let (pass, name) = self.pass_of(path, reign)?;
        let rows = pass.rows();
        rows.find(&name).map(|_| rows.rows.len())
    }

    /// What was listed at `path` may no longer be so.
    pub(super) fn outdate(&self, path: &Path) {
        self.mark(path, |_, row| row.outdated = true);
    }

    /// The store was asked of `path`, and said `meta`.
    pub(super) fn confirm(&self, path: &Path, meta: &Meta) {
        self.mark(path, |listed, row| row.outdated = listed != *meta);
    }

    fn mark(&self, path: &Path, mark: impl FnOnce(Meta, &mut Row)) {
        let Some((dir, name)) = path.split_last() else { return };
        let Some(pass) = self.known().passes.get(&dir).map(|(pass, _)| pass.clone()) else { return };
        let mut rows = pass.rows();
        if let Some(at) = rows.find(&name)
            && let Some(mut row) = rows.rows.get(at).copied()
        {
            mark(rows.meta(&row, &dir), &mut row);
            rows.rows[at] = row;
        }
    }

    /// Nothing is remembered of `dir` and what lies below it.
    pub(super) fn forget(&self, dir: &Path) {
        self.known().passes.retain(|known, _| !known.starts_with(dir));
    }

    /// What `pass` said is forgotten, where nothing newer is remembered in its place.
    pub(super) fn drop_pass(&self, pass: &Arc<Pass>) {
        let mut known = self.known();
        if known.passes.get(&pass.dir).is_some_and(|(known, _)| Arc::ptr_eq(known, pass)) {
            known.passes.remove(&pass.dir);
        }
    }

    /// The file at `path` is read, for which it had been fetched ahead as far as `found`. A listing is believed for `ttl`.
    pub(super) fn follow(&self, path: &Path, reign: u64, found: Ahead, ttl: Duration) -> Option<Follow> {
        let (pass, name) = self.pass_of(path, reign)?;
        let (at, ahead, passed, beyond) = {
            let mut rows = pass.rows();
            let at = rows.find(&name)?;
            let (mut ahead, mut passed, mut beyond) = (Vec::new(), Vec::new(), None);
            for (order, next) in rows.read(at, found, MOST_AHEAD) {
                ahead.extend(rows.files(order, next.ahead, &pass.dir));
                passed.extend(rows.names(order, next.passed).iter().map(|name| pass.dir.join(name)));
                beyond = beyond.or(next.beyond.map(|window| (order, window)));
            }
            let mut trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
            ahead.extend(rows.rest(at, &pass.dir, &mut trust));
            (at, ahead, passed, beyond)
        };
        let beyond = beyond.and_then(|(order, window)| {
            let after = self.after(&pass.dir, reign)?;
            let first = after.rows().expect(order, window, &after.dir);
            Some((after.source, after.targets(first, ttl)))
        });
        let ahead = pass.targets(ahead, ttl);
        Some(Follow { source: pass.source, ahead, passed, pass, at, beyond })
    }

    /// The listing of the directory that follows `dir` by name, of those beside it that were listed.
    fn after(&self, dir: &Path, reign: u64) -> Option<Arc<Pass>> {
        let (parent, _) = dir.split_last()?;
        let known = self.known();
        let beside = |other: &&Path| *other > dir && other.split_last().is_some_and(|(above, _)| above == parent);
        let next = known.passes.keys().filter(beside).min()?;
        known.passes.get(next).map(|(pass, _)| pass.clone()).filter(|pass| pass.reign == reign)
    }

    fn pass_of(&self, path: &Path, reign: u64) -> Option<(Arc<Pass>, Name)> {
        let (dir, name) = path.split_last()?;
        let mut known = self.known();
        let (pass, used) = known.passes.get_mut(&dir)?;
        if pass.reign != reign {
            known.passes.remove(&dir);
            return None;
        }
        *used = Instant::now();
        Some((pass.clone(), name))
    }

    /// Entries that may be remembered.
    fn most(&self) -> usize {
        usize::try_from(self.budget.total() / SHARE / ENTRY).unwrap_or(usize::MAX)
    }

    /// Drops what was used least recently, until `pass` has room for `entries`.
    fn make_room(&self, pass: &Pass, entries: usize) -> bool {
        let most = self.most();
        let mut known = self.known();
        loop {
            let others = known.passes.iter().filter(|(_, (other, _))| !std::ptr::eq(&**other, pass));
            // One that is being pushed to, and so locked, counts as full.
            let rows = |pass: &Pass| pass.rows.try_lock().map_or(most, |rows| rows.rows.len());
            let held: Vec<_> = others.map(|(dir, (other, used))| (*used, dir.clone(), rows(other))).collect();
            if held.iter().map(|(_, _, rows)| rows).sum::<usize>() + entries <= most {
                return true;
            }
            let Some((_, oldest, _)) = held.into_iter().min_by_key(|(used, _, _)| *used) else { return false };
            known.passes.remove(&oldest);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// How long what it says may still be believed, of `ttl` from when it began.
    pub(super) fn left(&self, ttl: Duration) -> Option<Duration> {
        ttl.checked_sub(self.at.elapsed()).filter(|left| !left.is_zero())
    }

    /// `files` of it, as far as what it says of them may still be believed.
    fn targets(&self, files: Vec<Version>, ttl: Duration) -> Vec<Target> {
        let target = if self.left(ttl).is_some() { Target::Version } else { Target::Unsure };
        files.into_iter().map(target).collect()
    }

    /// So many files were fetched ahead of whoever read the one at `at` and passed over.
    pub(super) fn wasted(&self, at: usize, files: usize) {
        self.rows().wasted(at, files);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::backend::{Node, Permissions};
    use crate::vfs::changes::Changes;

    const TTL: Duration = Duration::from_secs(60);

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn file(at: &Path, tag: &str, own: &str) -> Meta {
        let version = Version { path: at.clone(), file: tag.into(), bytes: own.into(), size: 100_000 };
        let permissions = Some(Permissions { uid: 1, gid: 2, mode: 0o600 });
        Meta {
            node: Node::File(version),
            mtime: SystemTime::UNIX_EPOCH + Duration::new(5, 6),
            permissions,
            readable: true,
            links: 3,
        }
    }

    struct Rig {
        listings: Listings,
        changes: Changes,
        ahead: Arc<crate::prefetch::ReadAhead>,
        budget: Budget,
    }

    fn rig(bytes: u64) -> Rig {
        let (budget, config) = (Budget::new(bytes), crate::prefetch::Config::for_budget(bytes));
        let store = Arc::new(crate::backend::memory::Memory::new());
        let ahead = crate::prefetch::ReadAhead::new(store, budget.clone(), config);
        Rig { listings: Listings::new(budget.clone()), changes: Changes::default(), ahead, budget }
    }

    impl Rig {
        fn list(&self, dir: &str, names: impl IntoIterator<Item = String>, tag: &str) -> Arc<Pass> {
            let dir = path(dir);
            let pass = self.listings.begin(&dir, Arc::new(self.changes.ask()), 0, self.ahead.source(), TTL);
            for text in names {
                let name = name(&text);
                self.listings.push(&pass, &name, &file(&dir.join(&name), tag, "own"));
            }
            pass
        }

        fn tag(&self, at: &str) -> Option<String> {
            let remembered = self.listings.get(&path(at), 0)?;
            Some(remembered.meta.version().unwrap().file.to_string())
        }
    }

    #[tokio::test]
    async fn what_was_listed_is_remembered_as_it_was() {
        let rig = rig(64 << 20);
        let dir =
            Meta { node: Node::Directory, mtime: SystemTime::UNIX_EPOCH, permissions: None, readable: true, links: 1 };
        let same = file(&path("d/same"), "tag", "tag");
        let other = file(&path("d/other"), "file", "bytes");
        let archived = Meta { readable: false, ..file(&path("d/archived"), "", "") };
        let pass = rig.listings.begin(&path("d"), Arc::new(rig.changes.ask()), 0, rig.ahead.source(), TTL);
        let all = [("dir", dir), ("same", same), ("other", other), ("archived", archived)];
        for (text, meta) in &all {
            rig.listings.push(&pass, &name(text), meta);
        }
        for (text, meta) in &all {
            let at = path("d").join(&name(text));
            assert_eq!(rig.listings.get(&at, 0).unwrap().meta, *meta);
            assert!(rig.listings.get(&at, 1).is_none(), "another principal's");
            rig.listings.done(&pass);
        }
        assert!(rig.listings.get(&path("d/nothing"), 0).is_none() && rig.listings.get(&path("e/same"), 0).is_none());
        rig.listings.outdate(&path("d/same"));
        assert!(rig.listings.get(&path("d/same"), 0).is_none() && rig.listings.get(&path("d/other"), 0).is_some());
        rig.listings.confirm(&path("d/same"), &all[2].1);
        assert!(rig.listings.get(&path("d/same"), 0).is_none());
        rig.listings.confirm(&path("d/same"), &all[1].1);
        assert!(rig.listings.get(&path("d/same"), 0).is_some());
        rig.listings.forget(&path("d"));
        assert!(rig.listings.get(&path("d/other"), 0).is_none());
    }

    #[tokio::test]
    async fn a_pass_is_dropped_unless_a_newer_one_is_remembered() {
        let rig = rig(64 << 20);
        let pass = rig.list("d", ["f".into()], "first");
        rig.listings.done(&pass);
        let newer = rig.list("d", ["f".into()], "second");
        rig.listings.done(&newer);
        rig.listings.drop_pass(&pass);
        assert_eq!(rig.tag("d/f").as_deref(), Some("second"));
        rig.listings.drop_pass(&newer);
        assert_eq!(rig.tag("d/f"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_pass_counts_when_it_is_done_or_the_old_one_is_too_old() {
        let rig = rig(64 << 20);
        rig.list("d", ["a".into(), "b".into()], "old");
        assert_eq!(rig.tag("d/a").unwrap(), "old");
        let pass = rig.list("d", ["a".into()], "new");
        assert_eq!(rig.tag("d/a").unwrap(), "old");
        rig.listings.done(&pass);
        assert_eq!((rig.tag("d/a").unwrap(), rig.tag("d/b")), ("new".into(), None));
        tokio::time::advance(TTL).await;
        rig.list("d", ["a".into()], "newest");
        assert_eq!(rig.tag("d/a").unwrap(), "newest");
    }

    #[tokio::test]
    async fn memory_is_bounded_and_what_is_used_stays() {
        let rig = rig(32 << 20);
        let free = rig.budget.free();
        let most = rig.listings.most();
        let names = || (0..most / 4).map(|number| number.to_string());
        for dir in 0..20 {
            rig.list(&format!("d{dir}"), names(), "tag");
            assert!(rig.tag("d0/0").is_some(), "{dir}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(rig.tag("d19/0").is_some() && rig.tag("d1/0").is_none());
        let taken = free - rig.budget.free();
        assert!(taken <= (32 << 20) / SHARE + BLOCK as u64 * ENTRY, "{taken}");
        // Of a directory that is too large, its beginning.
        rig.list("large", (0..2 * most).map(|number| number.to_string()), "tag");
        assert!(rig.tag("large/0").is_some() && rig.tag(&format!("large/{}", 2 * most - 1)).is_none());
        for dir in 0..20 {
            rig.listings.forget(&path(&format!("d{dir}")));
        }
        rig.listings.forget(&path("large"));
        assert_eq!(rig.budget.free(), free);
    }

    #[tokio::test]
    async fn who_reads_in_their_order_is_run_ahead_of() {
        let rig = rig(64 << 20);
        rig.list("d", (0..100).map(|number| format!("{number:03}")), "tag");
        let mut ahead = Vec::new();
        for at in 0..10 {
            let follow = rig.listings.follow(&path(&format!("d/{at:03}")), 0, Ahead::Coming, TTL).unwrap();
            ahead.extend(follow.ahead.into_iter().map(|target| target.path().to_string()));
        }
        assert!(ahead.len() > 10 && ahead.is_sorted());
        assert_eq!(ahead[0], "d/003");
    }

    #[tokio::test]
    async fn who_sorts_the_names_first_is_run_ahead_of_too() {
        let rig = rig(64 << 20);
        // As a file system tells them that keeps them by a hash of their names, or newest first.
        let told = |number: usize| format!("{:03}", number * 37 % 100);
        let sorted = |number: usize| format!("{number:03}");
        let newest = |number: usize| sorted(99 - number);
        type Named<'a> = &'a dyn Fn(usize) -> String;
        let cases: [(&str, Named<'_>, Named<'_>); 3] =
            [("hashed", &told, &sorted), ("newest", &newest, &sorted), ("as told", &told, &told)];
        for (dir, listed, order) in cases {
            rig.listings.done(&rig.list(dir, (0..100).map(listed), "tag"));
            let mut ahead = Vec::new();
            for at in 0..50 {
                let at = path(&format!("{dir}/{}", order(at)));
                let found = if ahead.contains(&at) { Ahead::There } else { Ahead::Coming };
                let follow = rig.listings.follow(&at, 0, found, TTL).unwrap();
                ahead.extend(follow.ahead.into_iter().map(|target| target.path().clone()));
            }
            let expected: Vec<_> = (0..100).map(|at| path(&format!("{dir}/{}", order(at)))).collect();
            assert!(ahead.len() > 40 && expected[3..].starts_with(&ahead), "{dir}: {ahead:?}");
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_small_directory_follows_some_of_it_in_any_order() {
        let rig = rig(64 << 20);
        let names = |files: usize| (0..files).map(|number| format!("{number:03}"));
        // How many files there are, and after how many of them the others are fetched.
        for (files, enough) in [(3, None), (10, Some(3)), (20, Some(5)), (21, None)] {
            let dir = format!("d{files}");
            let pass = rig.list(&dir, names(files), "tag");
            // Every other one, backwards, so that they are no run.
            let order: Vec<_> = (0..files).rev().step_by(2).collect();
            let follow = |number: usize| {
                let follow = rig.listings.follow(&path(&format!("{dir}/{number:03}")), 0, Ahead::Nothing, TTL).unwrap();
                follow.ahead.into_iter().map(|target| target.path().to_string()).collect::<Vec<_>>()
            };
            assert!(follow(order[0]).is_empty(), "it is not all listed yet");
            rig.listings.done(&pass);
            let fetched: Vec<_> = order.iter().map(|number| follow(*number)).collect();
            let told = fetched.iter().position(|fetched| !fetched.is_empty()).map(|at| at + 1);
            let order = &order;
            let others = |enough| (0..files).filter(move |number| !order[..enough].contains(number));
            let rest = enough.into_iter().flat_map(others).map(|number| format!("{dir}/{number:03}")).collect();
            assert_eq!((told, fetched.concat()), (enough, rest), "{files}");
        }
    }

    #[tokio::test]
    async fn who_comes_to_a_directorys_end_is_run_ahead_of_in_the_next() {
        let rig = rig(64 << 20);
        let names = || (0..40).map(|number| format!("{number:03}"));
        for dir in ["s/a", "s/c", "s/b", "t/bb", "s/b/in"] {
            rig.list(dir, names(), "tag");
        }
        let (mut beyond, mut waits) = (Vec::new(), 0);
        for (dir, at) in ["a", "b", "c"].into_iter().flat_map(|dir| (0..40).map(move |at| (dir, at))) {
            let at = format!("s/{dir}/{at:03}");
            let found = if beyond.contains(&at) { Ahead::There } else { Ahead::Coming };
            waits += usize::from(found == Ahead::Coming);
            let Follow { ahead, beyond: next, .. } = rig.listings.follow(&path(&at), 0, found, TTL).unwrap();
            let files = ahead.into_iter().chain(next.into_iter().flat_map(|(_, files)| files));
            beyond.extend(files.map(|target| target.path().to_string()));
        }
        assert!(waits <= 4, "{waits}");
        let once: std::collections::HashSet<_> = beyond.iter().collect();
        assert_eq!((once.len(), beyond.len()), (3 * 40 - 3, 3 * 40 - 3));
    }
}
