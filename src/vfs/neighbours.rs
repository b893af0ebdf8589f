//! Names of one directory that are looked up one after the other. Where a look costs the store two requests, a page of the
//! directory's listing costs one and tells of a thousand names: so it is asked for after some looks, of data that never
//! changes. Of other data a listing would only add to what may be old.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;

use super::Vfs;
use super::listings::Pass;
use crate::backend::Path;

/// Names that are asked for one by one before their directory is listed.
const SEVERAL: u8 = 2;
/// A directory that was itself listed among so few is listed at once: somebody goes through a tree of code.
const FEW: usize = 256;
/// Names that are asked for in a directory belong together while no more are asked for elsewhere in between: of files that
/// are read here and there in a large tree, hardly any other lies in a page that was listed for one.
const BETWEEN: u64 = 64;
/// Entries of a page. A larger directory is told of by that far, and then by looks again.
const PAGE: usize = 1000;
/// Entries of such pages that are remembered: a reader who goes on leaves the last directories behind him.
const KEPT: usize = 4 * PAGE;
/// Directories in which names are counted.
const MOST: usize = 1024;

/// How many names were asked for, by directory, and what was listed for it.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    dirs: HashMap<Path, Count>,
    /// Names that were asked for, anywhere.
    looks: u64,
    /// The pages that were listed, with their entries, the oldest first.
    pages: VecDeque<(Arc<Pass>, usize)>,
}

#[derive(Debug, Default)]
struct Count {
    names: u8,
    /// The last of them, as counted by [`Asked::looks`].
    last: u64,
}

impl Neighbours {
    /// A name in `dir` is about to be asked for. True once: when it should be listed instead, at the first of them where
    /// `at_once`.
    fn ask(&self, dir: &Path, at_once: bool) -> bool {
        let mut asked = self.lock();
        asked.looks += 1;
        let now = asked.looks;
        if asked.dirs.len() >= MOST && !asked.dirs.contains_key(dir) {
            // Whose names are still looked up are counted again.
            asked.dirs.clear();
        }
        let count = asked.dirs.entry(dir.clone()).or_default();
        if count.names <= SEVERAL && now - count.last > BETWEEN {
            count.names = 0;
        }
        if count.last == 0 && at_once {
            count.names = SEVERAL;
        }
        (count.names, count.last) = (count.names.saturating_add(1), now);
        count.names == SEVERAL + 1
    }

    /// A page of `entries` was listed. Returns those that are not to be remembered any more.
    fn keep(&self, page: Arc<Pass>, entries: usize) -> Vec<Arc<Pass>> {
        let mut asked = self.lock();
        asked.pages.push_back((page, entries));
        let mut kept: usize = asked.pages.iter().map(|(_, entries)| entries).sum();
        let mut gone = Vec::new();
        while kept > KEPT
            && let Some((page, entries)) = asked.pages.pop_front()
        {
            kept -= entries;
            gone.push(page);
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs {
    /// Lists the directory of `path`, if it is its turn. True where more may be known by now. What cannot be listed is
    /// looked up.
    pub(super) async fn list_beside(&self, path: &Path) -> bool {
        if !self.config.immutable || self.backend.traits().real_directories {
            return false;
        }
        let (reign, asked) = (self.reign.number(), Arc::new(self.changes.ask()));
        let at_once = |dir: &Path| self.listings.beside(dir, reign).is_some_and(|entries| entries <= FEW);
        let turn = path.split_last().filter(|(dir, _)| self.neighbours.ask(dir, at_once(dir)));
        let Some((dir, _)) = turn else { return false };
        let page = self.listings.begin(&dir, asked, reign, self.read_ahead.source(), self.believed());
        let (mut entries, mut listed) = (self.backend.list(&dir), 0);
        while listed < PAGE {
            match entries.next().await {
                Some(Ok(entry)) if entry.name.is_reserved() || entry.name.is_hidden() => {}
                Some(Ok(entry)) => self.listings.push(&page, &entry.name, &entry.meta),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a directory whose names are looked up cannot be listed");
                    break;
                }
                None => {
                    self.listings.done(&page);
                    break;
                }
            }
            listed += 1;
        }
        self.neighbours.keep(page, listed).iter().for_each(|page| self.listings.drop_pass(page));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_once_after_some_names() {
        let (neighbours, dir) = (Neighbours::default(), |text: &str| Path::parse(text).unwrap());
        let turns: Vec<_> = (0..600).map(|_| neighbours.ask(&dir("a"), false)).collect();
        assert_eq!(turns.iter().position(|turn| *turn), Some(usize::from(SEVERAL)));
        assert_eq!(turns.iter().filter(|turn| **turn).count(), 1);
        assert!(!neighbours.ask(&dir("b"), false));
        let turns: Vec<_> = (0..6).map(|_| neighbours.ask(&dir("told"), true)).collect();
        assert_eq!(turns, [true, false, false, false, false, false]);
        for number in 0..2 * MOST {
            neighbours.ask(&dir(&format!("c/{number}")), false);
            assert!(neighbours.lock().dirs.len() <= MOST);
        }
    }

    #[test]
    fn names_here_and_there_in_a_large_tree_are_looked_up() {
        let dir = |number: usize| Path::parse(&format!("d/{number}")).unwrap();
        let turns = |dirs: usize| {
            let neighbours = Neighbours::default();
            (0..12 * dirs).filter(|look| neighbours.ask(&dir(look % dirs), false)).count()
        };
        assert_eq!((turns(1), turns(64), turns(65), turns(500)), (1, 64, 0, 0));
    }

    #[tokio::test]
    async fn of_the_pages_that_were_listed_the_last_ones_are_kept() {
        let (_, vfs) = crate::vfs::tests::volume();
        let page = |number: usize| {
            let dir = Path::parse(&format!("d/{number}")).unwrap();
            let (asked, source) = (Arc::new(vfs.changes.ask()), vfs.read_ahead.source());
            vfs.listings.begin(&dir, asked, 0, source, vfs.believed())
        };
        let entries = [PAGE; 12].into_iter().chain([10, 3 * PAGE]);
        let gone: Vec<_> =
            (0..).zip(entries).map(|(number, entries)| vfs.neighbours.keep(page(number), entries).len()).collect();
        assert_eq!(gone, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3]);
    }
}
