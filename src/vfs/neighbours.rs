//! Names of one directory that are looked up one after the other. Where a look costs the store two requests, a page of the
//! directory's listing costs one and tells of a thousand names: so it is asked for after some looks, of data that never
//! changes. Of other data a listing would only add to what may be old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;

use super::Vfs;
use crate::backend::Path;

/// Names that are asked for one by one before their directory is listed.
const SEVERAL: u8 = 2;
/// Entries of a page. A larger directory is told of by that far, and then by looks again.
const PAGE: usize = 1000;
/// Directories in which names are counted.
const MOST: usize = 1024;

/// How many names were asked for, by directory.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Mutex<HashMap<Path, u8>>);

impl Neighbours {
    /// A name in `dir` is about to be asked for. True once: when it should be listed instead.
    fn ask(&self, dir: &Path) -> bool {
        let mut asked = self.lock();
        if asked.len() >= MOST && !asked.contains_key(dir) {
            // Whose names are still looked up are counted again.
            asked.clear();
        }
        let count = asked.entry(dir.clone()).or_default();
        *count = count.saturating_add(1);
        *count == SEVERAL + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Path, u8>> {
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
        let Some((dir, _)) = path.split_last().filter(|(dir, _)| self.neighbours.ask(dir)) else { return false };
        let (reign, asked) = (self.reign.number(), Arc::new(self.changes.ask()));
        let pass = self.listings.begin(&dir, asked, reign, self.read_ahead.source(), self.believed());
        let mut entries = self.backend.list(&dir);
        for _ in 0..PAGE {
            match entries.next().await {
                Some(Ok(entry)) if entry.name.is_reserved() || entry.name.is_hidden() => {}
                Some(Ok(entry)) => self.listings.push(&pass, &entry.name, &entry.meta),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a directory whose names are looked up cannot be listed");
                    break;
                }
                None => {
                    self.listings.done(&pass);
                    break;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_once_after_some_names() {
        let (neighbours, dir) = (Neighbours::default(), |text: &str| Path::parse(text).unwrap());
        let turns: Vec<_> = (0..600).map(|_| neighbours.ask(&dir("a"))).collect();
        assert_eq!(turns.iter().position(|turn| *turn), Some(usize::from(SEVERAL)));
        assert_eq!(turns.iter().filter(|turn| **turn).count(), 1);
        assert!(!neighbours.ask(&dir("b")));
        for number in 0..2 * MOST {
            neighbours.ask(&dir(&format!("c/{number}")));
            assert!(neighbours.lock().len() <= MOST);
        }
    }
}
