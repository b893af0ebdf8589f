//! A directory's entries, a page at a time, in the order of their names.

use std::sync::Arc;

use futures::stream::BoxStream;

use super::error::{Failure, Outcome};
use super::webhdfs::Status;
use super::{Hdfs, Tree, version};
use crate::backend::{Entry, ErrorKind, Name, Op, Path, Result, beside, reading};

/// `Backend::list`.
pub(super) fn list(tree: Arc<Tree>, dir: &Path) -> BoxStream<'static, Result<Entry>> {
    entries(tree, dir, false)
}

/// All that lies there, the driver's own files included, of which none is removed.
pub(super) fn list_all(tree: Arc<Tree>, dir: &Path) -> BoxStream<'static, Result<Entry>> {
    entries(tree, dir, true)
}

fn entries(tree: Arc<Tree>, dir: &Path, all: bool) -> BoxStream<'static, Result<Entry>> {
    let listing = Listing { tree, dir: dir.clone(), all, pages: Pages::default() };
    reading::pages(listing, async |mut listing| {
        let page = listing.page().await.map_err(|failure| failure.at(Op::List, &listing.dir))?;
        Ok(page.map(|page| (page, listing)))
    })
}

struct Listing {
    tree: Arc<Tree>,
    dir: Path,
    /// The driver's own files, too.
    all: bool,
    pages: Pages,
}

impl Listing {
    /// The next page; `None` behind the last.
    async fn page(&mut self) -> Outcome<Option<Vec<Entry>>> {
        let Some(found) = self.pages.next(&self.tree, &self.dir).await? else { return Ok(None) };
        let is_in_snapshot = self.tree.is_in_snapshot(&self.dir);
        let (mut page, mut hidden) = (Vec::new(), Vec::new());
        for (name, mut status) in found {
            if name.is_hidden() && !self.all {
                hidden.push(name);
                continue;
            }
            if !is_in_snapshot {
                self.tree.growing.add_to(&mut status);
                self.tree.writers.add_to(&mut status);
            }
            let meta = version::meta(&self.dir.join(&name), &status, &self.tree.owners);
            page.push(Entry { name, meta });
        }
        if !is_in_snapshot {
            beside::sweep(&Hdfs { tree: self.tree.clone() }, &self.dir, hidden);
        }
        Ok(Some(page))
    }
}

/// A directory as the name node gives it, page by page, in the order of names.
pub(super) struct Pages {
    /// Behind which name the next one begins; `None` after the last.
    next: Option<String>,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { next: Some(String::new()) }
    }
}

impl Pages {
    /// The next page of `dir`, always the same one; `None` behind the last.
    pub(super) async fn next(&mut self, tree: &Tree, dir: &Path) -> Outcome<Option<Vec<(Name, Status)>>> {
        let Some(after) = self.next.take() else { return Ok(None) };
        let at = tree.at(dir).map_err(|_| Failure::absent())?;
        let (entries, more) = tree.web.list(&at, &after).await?;
        self.next = match entries.last() {
            _ if !more => None,
            Some(last) if last.path_suffix > after => Some(last.path_suffix.clone()),
            _ => return Err(Failure::corrupt("the name node's listing does not go on")),
        };
        // A file is listed as itself, without a name.
        if entries.iter().any(|status| status.path_suffix.is_empty()) {
            return Err(Failure::new(ErrorKind::NotADirectory, "it is no directory"));
        }
        // A cluster may allow names that no mount can show.
        let named = |status: Status| Some((Name::new(status.path_suffix.as_bytes()).ok()?, status));
        Ok(Some(entries.into_iter().filter_map(named).collect()))
    }
}
